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
pkg_check_modules(PCRE2 REQUIRED IMPORTED_TARGET libpcre2-8)
pkg_check_modules(UTF8PROC REQUIRED IMPORTED_TARGET libutf8proc)

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
  # oneDNN is only measured against, so that a build without it loses nothing but the comparison. Its threads are
  # OpenMP's. Its own package file wants OpenCL's headers, of which no product has need.
  set(dnnl_state "not looked for with SLUICE_PARALLEL=${SLUICE_PARALLEL}")
  if(SLUICE_PARALLEL STREQUAL "openmp")
    find_library(SLUICE_DNNL_LIBRARY dnnl)
    find_path(SLUICE_DNNL_INCLUDE oneapi/dnnl/dnnl.h)
    mark_as_advanced(SLUICE_DNNL_LIBRARY SLUICE_DNNL_INCLUDE)
    set(dnnl_state "not found (Debian: libdnnl-dev)")
    if(SLUICE_DNNL_LIBRARY AND SLUICE_DNNL_INCLUDE)
      add_library(sluice_dnnl UNKNOWN IMPORTED)
      set_target_properties(sluice_dnnl PROPERTIES IMPORTED_LOCATION "${SLUICE_DNNL_LIBRARY}"
                                                   INTERFACE_INCLUDE_DIRECTORIES "${SLUICE_DNNL_INCLUDE}")
      set(dnnl_state "${SLUICE_DNNL_LIBRARY}")
    endif()
  endif()
  message(STATUS "oneDNN, for benchmarks to measure against: ${dnnl_state}")
endif()
