# SPDX-License-Identifier: Apache-2.0
# Build settings shared by all folders. Nothing here leaks to embedders: no global flags.
include(GNUInstallDirs)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(PROJECT_IS_TOP_LEVEL)
  set(CMAKE_RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)
  if(NOT CMAKE_BUILD_TYPE)
    set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
  endif()
endif()
set(KESSAI_SANITIZE "" CACHE STRING "sanitizers for every target, e.g. address,undefined or thread")

add_library(kessai_flags INTERFACE)
target_compile_features(kessai_flags INTERFACE cxx_std_23)
target_compile_options(kessai_flags INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Wimplicit-fallthrough -fno-omit-frame-pointer
  $<$<CXX_COMPILER_ID:Clang>:-Wthread-safety -Wthread-safety-beta -Werror=thread-safety>
  $<$<CONFIG:Debug>:-D_GLIBCXX_ASSERTIONS -DKESSAI_DEBUG_CHECKS>)
if(KESSAI_SANITIZE)
  target_compile_options(kessai_flags INTERFACE -fsanitize=${KESSAI_SANITIZE}
    -fno-sanitize-recover=all -DKESSAI_DEBUG_CHECKS)
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
endfunction()
