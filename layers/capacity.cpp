#include "layers/capacity.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/support/arena.h"

namespace sluice {
namespace {

/// Slots (token * k + slot) that go somewhere, in the order in which they claim room.
std::span<const int64_t> claims_in_order(ArenaScope& scratch, const Selection& selection,
                                         DropPolicy policy, std::span<const double> weights) {
  const int64_t k = selection.top_k;
  std::span<int64_t> claims(scratch.allocate<int64_t>(std::ssize(selection.expert)),
                            selection.expert.size());
  size_t count = 0;
  for (int64_t choice = 0; choice < k; ++choice) {
    for (int64_t token = 0; token < selection.tokens; ++token) {
      const int64_t slot = token * k + choice;
      if (selection.expert[static_cast<size_t>(slot)] != kNoExpert) claims[count++] = slot;
    }
  }
  claims = claims.first(count);
  if (policy == DropPolicy::weight) {
    // A NaN, whose step will be skipped, claims last: it has no place in an order.
    const auto claim = [&](int64_t slot) {
      const double weight = weights[static_cast<size_t>(slot)];
      return std::isnan(weight) ? -std::numeric_limits<double>::infinity() : weight;
    };
    std::sort(claims.begin(), claims.end(), [&](int64_t a, int64_t b) {
      const double claim_a = claim(a);
      const double claim_b = claim(b);
      return claim_a != claim_b ? claim_a > claim_b : a < b;
    });
  }
  return claims;
}

}  // namespace

void apply_capacity(Selection& selection, int64_t capacity, DropPolicy policy,
                    std::span<const double> weights, std::span<const uint8_t> counted) {
  selection.dispatched = selection.expert;
  selection.dropped = 0;
  ArenaScope scratch(thread_arena());
  int64_t* taken = scratch.allocate<int64_t>(selection.experts);
  std::fill_n(taken, selection.experts, 0);
  for (const int64_t slot : claims_in_order(scratch, selection, policy, weights)) {
    int32_t& expert = selection.dispatched[static_cast<size_t>(slot)];
    if (taken[expert]++ < capacity) continue;
    expert = kNoExpert;
    selection.dropped += counted[static_cast<size_t>(slot / selection.top_k)];
  }
}

}  // namespace sluice
