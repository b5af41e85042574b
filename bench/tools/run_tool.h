#pragma once
// The main function of a tool: what it cannot do is one sentence and status 1.

#include <cstdio>

#include "autograd/support/error.h"

namespace sluice::bench {

inline int run_tool(const char* name, int (*run)(int, char**), int argc, char** argv) {
  try {
    return run(argc, argv);
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", name, error.what());
    return 1;
  }
}

}  // namespace sluice::bench
