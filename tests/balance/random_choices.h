#pragma once
// Made-up routes for analyses.

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "layers/routing.h"

namespace sluice::testing {

/// [N, k]: different experts per token, of which low numbers come more often; about one slot in ten
/// is empty.
[[nodiscard]] inline std::vector<int32_t> random_choices(int64_t tokens, int64_t experts,
                                                         int64_t top_k, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> result;
  for (int64_t token = 0; token < tokens; ++token) {
    std::vector<int32_t> chosen;
    while (static_cast<int64_t>(chosen.size()) < top_k) {
      const auto draw = [&] { return random() % static_cast<uint64_t>(experts); };
      const auto expert = static_cast<int32_t>(std::min(draw(), draw()));
      if (std::ranges::find(chosen, expert) == chosen.end()) chosen.push_back(expert);
    }
    for (int32_t& expert : chosen) {
      if (random() % 10 == 0) expert = kNoExpert;
    }
    result.insert(result.end(), chosen.begin(), chosen.end());
  }
  return result;
}

}  // namespace sluice::testing
