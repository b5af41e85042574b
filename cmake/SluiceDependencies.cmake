# The libraries, each a package of Debian 12 (scripts/setup installs them). Imported targets count as system
# headers, so that our warnings stay ours.
find_package(Threads REQUIRED)
find_package(PkgConfig REQUIRED)
find_package(fmt REQUIRED)
find_package(Eigen3 3.4 REQUIRED)
find_package(yaml-cpp REQUIRED)
find_package(spdlog REQUIRED)
find_package(CLI11 REQUIRED)
find_package(nlohmann_json REQUIRED)
pkg_check_modules(HDF5 REQUIRED IMPORTED_TARGET hdf5)
pkg_check_modules(XXHASH REQUIRED IMPORTED_TARGET libxxhash)
pkg_check_modules(SENTENCEPIECE REQUIRED IMPORTED_TARGET sentencepiece)

# Only the back end in use is looked for: a thread-sanitizer build must not meet OpenMP at all, since GCC's
# OpenMP runtime hides its synchronisation from the sanitizer.
if(SLUICE_PARALLEL STREQUAL "openmp")
  find_package(OpenMP REQUIRED COMPONENTS CXX)
elseif(SLUICE_PARALLEL STREQUAL "tbb")
  find_package(TBB REQUIRED)
else()
  message(FATAL_ERROR "SLUICE_PARALLEL: found \"${SLUICE_PARALLEL}\", allowed openmp or tbb")
endif()

if(SLUICE_BUILD_TESTS)
  find_package(GTest REQUIRED)
endif()
if(SLUICE_BUILD_BENCH)
  find_package(benchmark REQUIRED)
endif()
