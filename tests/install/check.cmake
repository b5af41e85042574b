# Installs the build BUILD_DIR into a folder inside it, then builds and runs the program beside this file
# against that installation only.
set(work "${BUILD_DIR}/install_test")
set(prefix "${work}/prefix")
file(REMOVE_RECURSE "${work}")

function(run what)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE status OUTPUT_VARIABLE output ERROR_VARIABLE output)
  if(NOT status EQUAL 0)
    message(FATAL_ERROR "${what} ended with ${status}:\n${output}")
  endif()
endfunction()

run("install" ${CMAKE_COMMAND} --install "${BUILD_DIR}" --prefix "${prefix}")
run("configure" ${CMAKE_COMMAND} -S "${SOURCE_DIR}/tests/install" -B "${work}/build" -G Ninja
    -D CMAKE_CXX_COMPILER=${CXX} -D CMAKE_BUILD_TYPE=Release -D CMAKE_PREFIX_PATH=${prefix})
run("build" ${CMAKE_COMMAND} --build "${work}/build")
run("external program" "${work}/build/external_program")

foreach(path IN ITEMS LICENSE)
  if(NOT EXISTS "${prefix}/share/doc/sluice/${path}")
    message(FATAL_ERROR "the installation lacks share/doc/sluice/${path}")
  endif()
endforeach()
foreach(path IN ITEMS recipes data/quick/train/prose.txt data/quick/README.md)
  if(NOT EXISTS "${prefix}/share/sluice/${path}")
    message(FATAL_ERROR "the installation lacks share/sluice/${path}")
  endif()
endforeach()
if(EXISTS "${prefix}/bin/sluice")
  run("installed sluice --help" "${prefix}/bin/sluice" --help)
endif()
