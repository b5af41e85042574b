# Compiler settings. `sluice_options` carries them to every target of this tree and to nobody outside it.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release)
endif()
set(CMAKE_CXX_FLAGS_RELEASE "-O3 -DNDEBUG")
# -O0 makes the numeric tests slow; -O1 keeps a usable backtrace.
set(CMAKE_CXX_FLAGS_DEBUG "-O1 -g")

if(SLUICE_PROGRAM_LIBRARY)
  set(CMAKE_POSITION_INDEPENDENT_CODE ON)
endif()

find_program(CCACHE ccache)
if(CCACHE)
  # ccache only caches a file that uses a precompiled header when told that __TIME__ and the macros of
  # the header's command line may be ignored; no file here depends on either.
  set(CMAKE_CXX_COMPILER_LAUNCHER
      ${CMAKE_COMMAND} -E env CCACHE_SLOPPINESS=pch_defines,time_macros ${CCACHE})
endif()

add_library(sluice_options INTERFACE)
target_compile_options(sluice_options INTERFACE
  -Wall -Wextra -Wpedantic -Wshadow -Wnon-virtual-dtor -Woverloaded-virtual
  -Wno-missing-field-initializers  # designated initialisers leave defaults out on purpose
  $<$<AND:$<BOOL:${CCACHE}>,$<CXX_COMPILER_ID:GNU>>:-fpch-preprocess>)
# Neither changes a value: nobody reads errno after sqrt, nor the floating-point exception flags, and without
# them no loop over sqrt or a choice between two values is vectorised.
target_compile_options(sluice_options INTERFACE -fno-math-errno -fno-trapping-math)
target_compile_definitions(sluice_options INTERFACE $<$<CONFIG:Debug>:_GLIBCXX_ASSERTIONS>)
if(SLUICE_WERROR)
  target_compile_options(sluice_options INTERFACE -Werror)
endif()
if(SLUICE_MARCH)
  target_compile_options(sluice_options INTERFACE -march=${SLUICE_MARCH})
endif()
if(SLUICE_SANITIZE)
  # An undefined-behaviour report is a failure, not a line of output. -g1 is enough for a backtrace, and tracking
  # variables costs these builds a third of their time.
  target_compile_options(sluice_options INTERFACE
    -fsanitize=${SLUICE_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1)
  target_link_options(sluice_options INTERFACE -fsanitize=${SLUICE_SANITIZE})
endif()
