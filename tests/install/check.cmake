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
run("external program" "${work}/build/external_program" "${prefix}/share/sluice/recipes/quickstart.yaml")

foreach(path IN ITEMS doc/sluice/LICENSE sluice/data/quick/README.md sluice/data/quick/train/prose.txt)
  if(NOT EXISTS "${prefix}/share/${path}")
    message(FATAL_ERROR "the installation lacks share/${path}")
  endif()
endforeach()

# The installed program shows the recipes beside it, not those of the tree it was built from.
set(recipes "${prefix}/share/sluice/recipes")
file(COPY_FILE "${recipes}/quickstart.yaml" "${recipes}/only_here.yaml")
run("installed sluice recipes cat" "${prefix}/bin/sluice" recipes cat only_here)
