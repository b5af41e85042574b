#include "layers/capacity.h"

#include <algorithm>
#include <cmath>

namespace sluice {
namespace {

/// Slots (token * k + slot) that go somewhere, in the order in which they claim room.
std::vector<int64_t> claims_in_order(const Selection& selection, DropPolicy policy,
                                     std::span<const double> weights) {
  const int64_t k = selection.top_k;
  std::vector<int64_t> claims;
  claims.reserve(selection.expert.size());
  for (int64_t choice = 0; choice < k; ++choice) {
    for (int64_t token = 0; token < selection.tokens; ++token) {
      const int64_t slot = token * k + choice;
      if (selection.expert[static_cast<size_t>(slot)] != kNoExpert) claims.push_back(slot);
    }
  }
  if (policy == DropPolicy::weight) {
    std::sort(claims.begin(), claims.end(), [&](int64_t a, int64_t b) {
      const double weight_a = weights[static_cast<size_t>(a)];
      const double weight_b = weights[static_cast<size_t>(b)];
      return weight_a != weight_b ? weight_a > weight_b : a < b;
    });
  }
  return claims;
}

}  // namespace

int64_t expert_capacity(double factor, int64_t tokens, int64_t top_k, int64_t experts) {
  const double share = static_cast<double>(tokens * top_k) / static_cast<double>(experts);
  return static_cast<int64_t>(std::ceil(factor * share));
}

void apply_capacity(Selection& selection, int64_t capacity, DropPolicy policy,
                    std::span<const double> weights, std::span<const uint8_t> counted) {
  selection.dispatched = selection.expert;
  selection.dropped = 0;
  std::vector<int64_t> taken(static_cast<size_t>(selection.experts), 0);
  for (const int64_t slot : claims_in_order(selection, policy, weights)) {
    int32_t& expert = selection.dispatched[static_cast<size_t>(slot)];
    if (taken[static_cast<size_t>(expert)]++ < capacity) continue;
    expert = kNoExpert;
    selection.dropped += counted[static_cast<size_t>(slot / selection.top_k)];
  }
}

}  // namespace sluice
