# SPDX-License-Identifier: Apache-2.0
# The installed package: find_package(kessai), pkg-config kessai. Relocatable.
#
#   kessai::kessai    the engine, one static library bundling its layers
#   kessai::payments  the payments layer on top of it
#   kessai::testing   the simulated disk and the crash loop, for embedders' tests
#
# No third-party type is in a public header; static linking needs liburing and threads only.
include(CMakePackageConfigHelpers)

set(bundle_objects)
foreach(layer io wal btree mvcc engine)
  if(TARGET kessai_${layer})
    list(APPEND bundle_objects $<TARGET_OBJECTS:kessai_${layer}>)
  endif()
endforeach()
add_library(kessai_bundle STATIC ${bundle_objects})
target_include_directories(kessai_bundle PUBLIC $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
target_compile_features(kessai_bundle PUBLIC cxx_std_23)
target_link_libraries(kessai_bundle PRIVATE PkgConfig::liburing Threads::Threads)
set_target_properties(kessai_bundle PROPERTIES OUTPUT_NAME kessai EXPORT_NAME kessai LINKER_LANGUAGE CXX)
install(TARGETS kessai_bundle EXPORT kessai ARCHIVE COMPONENT development)
install(DIRECTORY ${PROJECT_SOURCE_DIR}/io/include/kessai ${PROJECT_SOURCE_DIR}/engine/include/kessai
        DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT development FILES_MATCHING PATTERN "*.hpp")

# Optional parts: each is built against the in-tree layers and exported against the bundle.
foreach(part payments testing)
  if(TARGET kessai_${part})
    get_target_property(libs kessai_${part} INTERFACE_LINK_LIBRARIES)
    list(TRANSFORM libs REPLACE "^kessai_.*|^kessai::.*" "$<BUILD_INTERFACE:\\0>")
    set_target_properties(kessai_${part} PROPERTIES EXPORT_NAME ${part}
      INTERFACE_LINK_LIBRARIES "${libs};$<INSTALL_INTERFACE:kessai_bundle>")
    install(TARGETS kessai_${part} EXPORT kessai ARCHIVE COMPONENT development)
  endif()
endforeach()

set(config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/kessai)
install(EXPORT kessai NAMESPACE kessai:: FILE kessaiTargets.cmake DESTINATION ${config_dir}
        COMPONENT development)
configure_package_config_file(${PROJECT_SOURCE_DIR}/cmake/kessaiConfig.cmake.in kessaiConfig.cmake
                              INSTALL_DESTINATION ${config_dir})
write_basic_package_version_file(kessaiConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kessaiConfig.cmake
              ${CMAKE_CURRENT_BINARY_DIR}/kessaiConfigVersion.cmake
        DESTINATION ${config_dir} COMPONENT development)

file(RELATIVE_PATH up_to_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
configure_file(${PROJECT_SOURCE_DIR}/cmake/kessai.pc.in kessai.pc @ONLY)
install(FILES ${CMAKE_CURRENT_BINARY_DIR}/kessai.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
        COMPONENT development)

foreach(tool kvsh kvpay kvtorture)
  if(TARGET ${tool})
    install(TARGETS ${tool} RUNTIME COMPONENT tools)
  endif()
endforeach()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})
