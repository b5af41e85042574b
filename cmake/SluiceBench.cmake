# Every bench/**/bench_x.cpp is one program in <build>/bench; the target `sluice_bench` builds them all. What trains
# (bench_train_x, and what compares whole layers or steps) links the whole; the others stop at the ops, so that a kernel is measured without building the rest.
file(GLOB_RECURSE bench_sources CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/bench/bench_*.cpp")
file(GLOB_RECURSE bench_helpers CONFIGURE_DEPENDS "${PROJECT_SOURCE_DIR}/bench/*.cpp")
list(FILTER bench_helpers EXCLUDE REGEX "/bench_[^/]*\\.cpp$")

add_custom_target(sluice_bench)
if(bench_helpers)
  # Linked before the rooms, as the helpers of the tests are.
  add_library(sluice_bench_support STATIC ${bench_helpers})
  target_link_libraries(sluice_bench_support PUBLIC sluice_support benchmark::benchmark)
endif()
foreach(source IN LISTS bench_sources)
  cmake_path(GET source STEM name)
  set(room ops)
  if(name MATCHES "^bench_(train|balancing|dense_to_sparse|recompute|uneven_load)")
    set(room train)
  endif()
  add_executable(${name} "${source}")
  target_link_libraries(${name} PRIVATE $<TARGET_NAME_IF_EXISTS:sluice_bench_support> sluice_${room}
                                        benchmark::benchmark Eigen3::Eigen)
  target_compile_definitions(${name} PRIVATE "SLUICE_SOURCE_DIR=\"${PROJECT_SOURCE_DIR}\"")
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY "${PROJECT_BINARY_DIR}/bench")
  add_dependencies(sluice_bench ${name})
endforeach()
