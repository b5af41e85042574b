# Every tests/fuzz/x_fuzz.cpp as a libFuzzer program, build/fuzz/x_fuzz; the target `sluice_fuzz` builds them all. Only in
# the preset `fuzz` (scripts/fuzz), which compiles everything with clang++ and the coverage that the fuzzer follows.
if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
  message(FATAL_ERROR "SLUICE_BUILD_FUZZ: libFuzzer belongs to clang++, found ${CMAKE_CXX_COMPILER_ID}; use the preset fuzz")
endif()

add_custom_target(sluice_fuzz)
# sluice_fuzz_program(name ROOM room SOURCES files...): readers of the room `train` bring their own sources and stop at
# the room before, so that a target need not wait for the whole program.
function(sluice_fuzz_program name)
  cmake_parse_arguments(FUZZ "" "ROOM" "SOURCES" ${ARGN})
  list(TRANSFORM FUZZ_SOURCES PREPEND "${PROJECT_SOURCE_DIR}/")
  add_executable(${name}_fuzz "${PROJECT_SOURCE_DIR}/tests/fuzz/${name}_fuzz.cpp" ${FUZZ_SOURCES})
  target_link_libraries(${name}_fuzz PRIVATE sluice_${FUZZ_ROOM} sluice_options nlohmann_json::nlohmann_json
                                             PkgConfig::XXHASH)
  target_compile_definitions(${name}_fuzz PRIVATE SLUICE_FUZZER)
  target_link_options(${name}_fuzz PRIVATE -fsanitize=fuzzer)
  add_dependencies(sluice_fuzz ${name}_fuzz)
endfunction()

set(tensor_files tensor_files stored_type output_stream)
list(TRANSFORM tensor_files REPLACE "(.+)" "train/interchange/\\1.cpp")
sluice_fuzz_program(safetensors ROOM data SOURCES train/interchange/safetensors.cpp ${tensor_files})
sluice_fuzz_program(gguf ROOM data SOURCES train/interchange/gguf.cpp train/interchange/gguf_model.cpp
                                           train/interchange/config_reader.cpp ${tensor_files})
sluice_fuzz_program(tokenizer_json ROOM data)
sluice_fuzz_program(checkpoint ROOM data SOURCES train/checkpoint/hdf5.cpp train/checkpoint/image.cpp
                                                 train/checkpoint/user_block.cpp
                                                 train/checkpoint/packed_ternary.cpp)
sluice_fuzz_program(recipe ROOM train)
