#pragma once
// Operands of benchmarks.

#include <cstdint>
#include <vector>

#include "autograd/support/rng.h"

namespace sluice::bench {

/// Uniform in [-1, 1), the same every time.
[[nodiscard]] inline std::vector<float> random_floats(int64_t n, uint64_t seed) {
  std::vector<float> result(static_cast<size_t>(n));
  for (size_t i = 0; i < result.size(); ++i) {
    result[i] = static_cast<float>(2.0 * uniform({.seed = seed}, 0, i) - 1.0);
  }
  return result;
}

}  // namespace sluice::bench
