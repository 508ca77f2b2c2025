# SPDX-License-Identifier: Apache-2.0
# Build settings shared by all folders. Nothing here leaks to embedders: no global flags.
include(GNUInstallDirs)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
  endif()
  find_program(KESSAI_CCACHE ccache)
  mark_as_advanced(KESSAI_CCACHE)
  if(KESSAI_CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
    set(CMAKE_C_COMPILER_LAUNCHER ${KESSAI_CCACHE})
    set(CMAKE_CXX_COMPILER_LAUNCHER ${KESSAI_CCACHE})
  endif()
endif()
set(KESSAI_SANITIZE "" CACHE STRING "sanitizers for every target, e.g. address,undefined or thread")

# Third-party libraries that end up in the engine. `kessaiConfig.cmake` repeats this for embedders.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
pkg_check_modules(liburing REQUIRED IMPORTED_TARGET GLOBAL liburing)

add_library(kessai_flags INTERFACE)
target_compile_features(kessai_flags INTERFACE cxx_std_23)
target_compile_options(kessai_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wimplicit-fallthrough -fno-omit-frame-pointer
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety -Wthread-safety-beta -Werror=thread-safety>
  $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict>  # g++ 12 sees overlaps in std::string's operator+ (GCC PR 105651)
  $<$<CONFIG:Debug>:-D_GLIBCXX_ASSERTIONS -DKESSAI_DEBUG_CHECKS>)
if(KESSAI_SANITIZE)
  target_compile_options(kessai_flags INTERFACE -fsanitize=${KESSAI_SANITIZE}
    -fno-sanitize-recover=all -DKESSAI_DEBUG_CHECKS
    # g++ warns so about instrumented code only (std::optional, boost)
    $<$<CXX_COMPILER_ID:GNU>:-Wno-maybe-uninitialized -Wno-uninitialized>)
  target_link_options(kessai_flags INTERFACE -fsanitize=${KESSAI_SANITIZE})
endif()

# kessai_layer(NAME SOURCES ... [LIBS ...]): one layer of the engine as a static library.
function(kessai_layer name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_library(${name} STATIC ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/io/include>
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/engine/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(${name} PUBLIC ${ARG_LIBS} PRIVATE $<BUILD_INTERFACE:kessai_flags>)
  target_compile_features(${name} PUBLIC cxx_std_23)
  set_target_properties(${name} PROPERTIES POSITION_INDEPENDENT_CODE ON)

  kessai_torture_twin(${name}_torture SOURCES ${ARG_SOURCES} LIBS ${ARG_LIBS})
endfunction()

# A layer with planted bugs compiled in (KESSAI_MUTANT), for the tests that must find them. Never
# installed; built only when something links it.
function(kessai_torture_twin name)
  cmake_parse_arguments(ARG "" "" "SOURCES;LIBS" ${ARGN})
  add_library(${name} STATIC EXCLUDE_FROM_ALL ${ARG_SOURCES})
  target_include_directories(${name} PUBLIC
    ${PROJECT_SOURCE_DIR} ${PROJECT_SOURCE_DIR}/io/include ${PROJECT_SOURCE_DIR}/engine/include)
  target_compile_definitions(${name} PUBLIC KESSAI_TORTURE=1)
  list(TRANSFORM ARG_LIBS REPLACE "^(kessai_(io|wal|btree|mvcc|engine))$" "\\1_torture")
  target_link_libraries(${name} PUBLIC ${ARG_LIBS} PRIVATE kessai_flags)
  target_compile_features(${name} PUBLIC cxx_std_23)
endfunction()

# kessai_jemalloc(TARGET): jemalloc for our own executables, never for the libraries. Sanitizers
# bring an allocator of their own.
function(kessai_jemalloc target)
  if(KESSAI_SANITIZE)
    return()
  endif()
  pkg_check_modules(jemalloc REQUIRED IMPORTED_TARGET GLOBAL jemalloc)
  target_link_libraries(${target} PRIVATE PkgConfig::jemalloc)
endfunction()
