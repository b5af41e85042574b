# One test executable per room (sluice_<room>_test, of tests/<folder>/**/*_test.cpp) and per folder that looks at
# the whole; every test of an executable carries its name as a ctest label: `ctest -L kernels`.
include(GoogleTest)

# GoogleTest and the standard headers cost two seconds in every test file; compiled once here.
file(CONFIGURE OUTPUT "${PROJECT_BINARY_DIR}/test_pch.cpp" CONTENT "namespace sluice {}\n")
# Test code is compiled once and run once: more optimisation costs more than it returns. The rooms that it calls
# keep theirs.
add_library(sluice_test_options INTERFACE)
if(SLUICE_SANITIZE)
  target_compile_options(sluice_test_options INTERFACE -O0)
else()
  target_compile_options(sluice_test_options INTERFACE -O1)
endif()
add_library(sluice_test_pch OBJECT "${PROJECT_BINARY_DIR}/test_pch.cpp")
target_link_libraries(sluice_test_pch PUBLIC sluice_support sluice_test_options GTest::gtest GTest::gmock)
target_precompile_headers(sluice_test_pch PRIVATE
  <gmock/gmock.h> <gtest/gtest.h> <fmt/format.h> <fmt/ranges.h>
  <algorithm> <cmath> <cstdint> <functional> <limits> <memory> <optional> <span> <string> <string_view> <vector>)

# Helpers shared by tests. Linked before the rooms, so that its undefined symbols find the rooms that a test
# links; a test of a left-hand room then need not wait for the right-hand ones.
file(GLOB_RECURSE helpers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/support/*.cpp")
list(FILTER helpers EXCLUDE REGEX "_test\\.cpp$")
if(helpers)
  add_library(sluice_test_support STATIC ${helpers})
  target_link_libraries(sluice_test_support PUBLIC sluice_support PRIVATE sluice_test_options GTest::gtest)
  target_precompile_headers(sluice_test_support REUSE_FROM sluice_test_pch)
endif()

# sluice_tests(name LABEL label TIMEOUT seconds SOURCES files... LINK libraries...)
function(sluice_tests name)
  cmake_parse_arguments(TESTS "" "LABEL;TIMEOUT" "SOURCES;LINK" ${ARGN})
  if(NOT TESTS_SOURCES)
    return()
  endif()
  add_executable(${name} ${TESTS_SOURCES})
  target_link_libraries(${name} PRIVATE $<TARGET_NAME_IF_EXISTS:sluice_test_support> ${TESTS_LINK}
                                        sluice_test_options GTest::gtest_main GTest::gmock)
  target_compile_definitions(${name} PRIVATE "SLUICE_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\"")
  target_precompile_headers(${name} REUSE_FROM sluice_test_pch)
  # The allowance for a sanitizer.
  set(slowdown 1)
  if(SLUICE_SANITIZE)
    set(slowdown 5)
  endif()
  math(EXPR timeout "${TESTS_TIMEOUT} * ${slowdown}")
  gtest_discover_tests(${name} DISCOVERY_MODE PRE_TEST DISCOVERY_TIMEOUT 120
                       PROPERTIES LABELS ${TESTS_LABEL} TIMEOUT ${timeout})
endfunction()

get_property(rooms GLOBAL PROPERTY SLUICE_ROOMS)
foreach(room IN LISTS rooms)
  get_property(folder GLOBAL PROPERTY SLUICE_FOLDER_OF_${room})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/${folder}/*_test.cpp")
  sluice_tests(sluice_${room}_test LABEL ${room} TIMEOUT 60 SOURCES ${sources} LINK sluice_${room})
endforeach()

foreach(whole IN ITEMS support contract golden)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/${whole}/*_test.cpp")
  set(label ${whole})
  if(whole STREQUAL "support")
    set(label test_support)  # "support" is the room
  endif()
  sluice_tests(sluice_${label}_test LABEL ${label} TIMEOUT 120 SOURCES ${sources} LINK sluice_train)
endforeach()

# The corpus of the fuzz targets, without a fuzzer.
file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/fuzz/*.cpp")
sluice_tests(sluice_fuzz_test LABEL fuzz TIMEOUT 120 SOURCES ${sources} LINK sluice_train)

# Counts what a training step takes from the heap. A program of its own, since it stands in for malloc, as the
# sanitizers do too. Its functions are visible, so that a failure can name who called.
if(NOT SLUICE_SANITIZE)
  file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/steady_state/*.cpp")
  sluice_tests(sluice_steady_state_test LABEL steady_state TIMEOUT 120 SOURCES ${sources} LINK sluice_train)
  set_target_properties(sluice_steady_state_test PROPERTIES ENABLE_EXPORTS ON)
endif()

# What reads the source tree instead of running it: layering, leftovers, recipes.
file(GLOB sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/*_test.cpp")
sluice_tests(sluice_tree_test LABEL tree TIMEOUT 60 SOURCES ${sources} LINK sluice_support)

# The program as a user runs it.
if(TARGET sluice)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/end_to_end/*_test.cpp")
  if(sources)
    sluice_tests(sluice_end_to_end_test LABEL end_to_end TIMEOUT 300 SOURCES ${sources} LINK sluice_train)
    target_compile_definitions(sluice_end_to_end_test PRIVATE "SLUICE_PROGRAM=\"$<TARGET_FILE:sluice>\"")
    add_dependencies(sluice_end_to_end_test sluice)
  endif()
endif()

# Installs into a temporary prefix and builds a program against it. The consumer knows nothing of sanitizers.
if(NOT SLUICE_SANITIZE)
  add_test(NAME Install.ServesAnExternalProgram
    COMMAND ${CMAKE_COMMAND} -D BUILD_DIR=${PROJECT_BINARY_DIR} -D SOURCE_DIR=${PROJECT_SOURCE_DIR}
            -D CXX=${CMAKE_CXX_COMPILER} -P "${PROJECT_SOURCE_DIR}/tests/install/check.cmake")
  set_tests_properties(Install.ServesAnExternalProgram PROPERTIES LABELS install TIMEOUT 600)
endif()
