# `cmake --install`: libraries, headers, recipes with their text, the program, and the config that
# find_package(sluice) reads. The one target for others is sluice::sluice.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

add_library(sluice_all INTERFACE)
add_library(sluice::sluice ALIAS sluice_all)
set_target_properties(sluice_all PROPERTIES EXPORT_NAME sluice)
set(targets sluice_all)
set(folders "")
get_property(rooms GLOBAL PROPERTY SLUICE_ROOMS)
foreach(room IN LISTS rooms)
  list(APPEND targets sluice_${room})
  get_property(folder GLOBAL PROPERTY SLUICE_FOLDER_OF_${room})
  string(REGEX REPLACE "/.*" "" folder "${folder}")
  list(APPEND folders "${folder}")
  target_link_libraries(sluice_all INTERFACE sluice_${room})
endforeach()
list(REMOVE_DUPLICATES folders)

install(TARGETS ${targets} EXPORT sluice_targets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
if(TARGET sluice)
  install(TARGETS sluice RUNTIME DESTINATION "${CMAKE_INSTALL_BINDIR}" COMPONENT program)
endif()
foreach(folder IN LISTS folders)
  install(DIRECTORY "${folder}" DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}/sluice"
          FILES_MATCHING PATTERN "*.h" PATTERN "*.def" PATTERN "data/quick" EXCLUDE)
endforeach()
install(DIRECTORY recipes DESTINATION "${CMAKE_INSTALL_DATADIR}/sluice")
# Beside the recipes as in the source tree: their paths to the text are relative.
install(DIRECTORY data/quick DESTINATION "${CMAKE_INSTALL_DATADIR}/sluice/data")
install(FILES LICENSE DESTINATION "${CMAKE_INSTALL_DATADIR}/doc/sluice")

set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/sluice")
install(EXPORT sluice_targets NAMESPACE sluice:: DESTINATION "${package_dir}" FILE sluiceTargets.cmake)
configure_package_config_file(cmake/sluiceConfig.cmake.in "${PROJECT_BINARY_DIR}/sluiceConfig.cmake"
                              INSTALL_DESTINATION "${package_dir}")
write_basic_package_version_file("${PROJECT_BINARY_DIR}/sluiceConfigVersion.cmake"
                                 COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/sluiceConfig.cmake" "${PROJECT_BINARY_DIR}/sluiceConfigVersion.cmake"
        DESTINATION "${package_dir}")
