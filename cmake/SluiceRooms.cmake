# What nearly every file includes, parsed once. The preset `dev` goes without, so that a missing include shows.
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/pch.cpp" CONTENT "namespace sluice {}\n")
add_library(sluice_pch OBJECT "${PROJECT_BINARY_DIR}/pch.cpp")
target_link_libraries(sluice_pch PRIVATE sluice_options fmt::fmt)
target_precompile_headers(sluice_pch PRIVATE
  <fmt/format.h> <fmt/ranges.h>
  <algorithm> <array> <cmath> <cstdint> <filesystem> <functional> <limits> <map> <memory> <optional> <span> <string>
  <string_view> <vector>)

# sluice_room(name folder [DEPENDS rooms...]): one library, sluice_<name>, of the folder's sources.
function(sluice_room name folder)
  cmake_parse_arguments(ROOM "" "" "DEPENDS" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/${folder}/*.cpp")
  list(REMOVE_ITEM sources "${PROJECT_SOURCE_DIR}/train/main.cpp")
  if(sources)
    add_library(sluice_${name} STATIC ${sources})
    set(scope PUBLIC)
    if(NOT name STREQUAL "support")  # its flags for threads are its own
      target_precompile_headers(sluice_${name} REUSE_FROM sluice_pch)
    endif()
  else()
    add_library(sluice_${name} INTERFACE)
    set(scope INTERFACE)
  endif()
  add_library(sluice::${name} ALIAS sluice_${name})
  set_target_properties(sluice_${name} PROPERTIES EXPORT_NAME ${name})
  target_compile_features(sluice_${name} ${scope} cxx_std_20)
  target_include_directories(sluice_${name} ${scope}
    "$<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}>" "$<INSTALL_INTERFACE:include/sluice>")
  target_link_libraries(sluice_${name} ${scope} "$<BUILD_INTERFACE:sluice_options>")
  foreach(dependency IN LISTS ROOM_DEPENDS)
    target_link_libraries(sluice_${name} ${scope} sluice_${dependency})
  endforeach()
  set_property(GLOBAL APPEND PROPERTY SLUICE_ROOMS ${name})
  set_property(GLOBAL PROPERTY SLUICE_FOLDER_OF_${name} ${folder})
endfunction()

# sluice_uses(room libraries...): libraries that the room's sources include and its headers do not. Only what
# must be linked reaches the room's users; a header-only library stays inside.
function(sluice_uses room)
  get_target_property(type sluice_${room} TYPE)
  if(NOT type STREQUAL "INTERFACE_LIBRARY")
    target_link_libraries(sluice_${room} PRIVATE ${ARGN})
  endif()
endfunction()

# Which room knows which library; tests/layering_test holds the sources to the same list.
function(sluice_link_libraries_of_rooms)
  target_link_libraries(sluice_support PUBLIC fmt::fmt Threads::Threads)
  sluice_uses(support PkgConfig::HDF5 PkgConfig::XXHASH)
  if(SLUICE_SANITIZE MATCHES "thread")
    # Note [Thread sanitizer] in that file.
    set_source_files_properties("${PROJECT_SOURCE_DIR}/autograd/support/parallel.cpp" PROPERTIES
      COMPILE_OPTIONS -fno-sanitize=thread COMPILE_DEFINITIONS SLUICE_THREAD_SANITIZER)
  endif()
  if(SLUICE_PARALLEL STREQUAL "tbb")
    sluice_uses(support TBB::tbb)
    target_compile_definitions(sluice_support PRIVATE SLUICE_PARALLEL_TBB)
  else()
    sluice_uses(support OpenMP::OpenMP_CXX)
  endif()

  sluice_uses(kernels "$<BUILD_INTERFACE:Eigen3::Eigen>")
  sluice_uses(data PkgConfig::SENTENCEPIECE PkgConfig::PCRE2 PkgConfig::UTF8PROC PkgConfig::XXHASH
              "$<BUILD_INTERFACE:nlohmann_json::nlohmann_json>")
  sluice_uses(train yaml-cpp PkgConfig::XXHASH spdlog::spdlog "$<BUILD_INTERFACE:CLI11::CLI11>"
              "$<BUILD_INTERFACE:nlohmann_json::nlohmann_json>")
endfunction()

# The program. SLUICE_RECIPE_DIRS tells train where the shipped recipes are: folders separated by ':', tried in
# order; a relative one is relative to the folder of the running program, so that an installation may be moved.
function(sluice_program main)
  if(NOT EXISTS "${PROJECT_SOURCE_DIR}/${main}")
    return()
  endif()
  # The command line's parser is a header of templates, and nothing there takes time when it runs.
  file(GLOB cli CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/train/cli/*.cpp")
  set_source_files_properties(${cli} PROPERTIES COMPILE_OPTIONS -O1)
  target_compile_definitions(sluice_train PRIVATE
    "SLUICE_RECIPE_DIRS=\"../share/sluice/recipes:${PROJECT_SOURCE_DIR}/recipes\""
    "SLUICE_VERSION=\"${PROJECT_VERSION}\"")
  if(SLUICE_PROGRAM_LIBRARY)
    sluice_program_library("${main}")
    return()
  endif()
  add_executable(sluice "${main}")
  target_link_libraries(sluice PRIVATE sluice_train)
endfunction()

# The program as a library of all rooms, built for SLUICE_MARCH, and an executable that only calls it. Whole
# programs are what differs between instruction sets, never parts of one: an inline function that two rooms share is
# compiled once, for one register width. Installed where the dynamic loader (glibc 2.33 and later) looks for this
# instruction set: it takes the first of x86-64-v4, v3, v2 and the plain folder that the processor can run and that
# there is.
function(sluice_program_library main)
  include(GNUInstallDirs)
  set(folder "${CMAKE_INSTALL_LIBDIR}/sluice")
  add_library(sluice_program SHARED "${main}")
  target_compile_definitions(sluice_program PRIVATE main=sluice_main)
  target_link_libraries(sluice_program PRIVATE sluice_train)
  # What it defines is its own: nothing of it may be bound to a copy elsewhere, for another register width.
  target_link_options(sluice_program PRIVATE -Wl,--exclude-libs,ALL -Wl,-Bsymbolic)

  file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/program.cpp" CONTENT
    "int sluice_main(int argc, char** argv);\nint main(int argc, char** argv) { return sluice_main(argc, argv); }\n")
  add_executable(sluice "${PROJECT_BINARY_DIR}/program.cpp")
  target_link_libraries(sluice PRIVATE sluice_program)
  set_target_properties(sluice PROPERTIES INSTALL_RPATH "$ORIGIN/../${folder}")
  if(SLUICE_MARCH MATCHES "^x86-64-v[234]$")
    string(APPEND folder "/glibc-hwcaps/${SLUICE_MARCH}")
  endif()
  install(TARGETS sluice_program LIBRARY DESTINATION "${folder}" COMPONENT program)
endfunction()
