# Every bench/**/bench_x.cpp is one program in <build>/bench; the target `sluice_bench` builds them all. What trains
# (whole steps, and what compares layers) links the whole; the others stop at the ops, so that a kernel is measured
# without building the rest. bench/tools/x.cpp are the programs that scripts/bench and scripts/bench-compare call.
file(GLOB_RECURSE bench_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/bench/bench_*.cpp")
file(GLOB bench_tools CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/bench/tools/*.cpp")
file(GLOB_RECURSE bench_helpers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/bench/*.cpp")
list(FILTER bench_helpers EXCLUDE REGEX "/(bench_[^/]*|tools/[^/]*|gemm_dnnl)\\.cpp$")

# Linked before the rooms, as the helpers of the tests are.
add_library(sluice_bench_support STATIC ${bench_helpers})
target_link_libraries(sluice_bench_support PUBLIC sluice_kernels benchmark::benchmark
                                           PRIVATE nlohmann_json::nlohmann_json)
if(TARGET sluice_dnnl)
  target_sources(sluice_bench_support PRIVATE "${PROJECT_SOURCE_DIR}/bench/gemm_dnnl.cpp")
  target_compile_definitions(sluice_bench_support PUBLIC SLUICE_WITH_DNNL)
  target_link_libraries(sluice_bench_support PRIVATE sluice_dnnl OpenMP::OpenMP_CXX)
endif()

add_custom_target(sluice_bench)
function(sluice_bench_program source)
  cmake_path(GET source STEM name)
  add_executable(${name} "${source}")
  target_link_libraries(${name} PRIVATE sluice_bench_support ${ARGN})
  target_compile_definitions(${name} PRIVATE "SLUICE_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\"")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bench")
  add_dependencies(sluice_bench ${name})
endfunction()
foreach(source IN LISTS bench_sources)
  if(source MATCHES "/bench_(sizes|scaling|balancing|checkpoint_stall|decode|dense_to_sparse|optimizer|recompute|uneven_load)\\.cpp$")
    sluice_bench_program("${source}" sluice_train)
  else()
    sluice_bench_program("${source}" sluice_ops)
  endif()
endforeach()
foreach(source IN LISTS bench_tools)
  sluice_bench_program("${source}" CLI11::CLI11)
endforeach()

if(SLUICE_BUILD_TESTS)
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/tests/bench/*_test.cpp")
  sluice_tests(sluice_bench_test LABEL bench TIMEOUT 60 SOURCES ${sources} LINK sluice_bench_support)
endif()
