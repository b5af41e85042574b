#include "layers/routing.h"

#include <algorithm>
#include <cmath>

#include "autograd/support/error.h"

namespace sluice {

void Selection::count_load(std::span<const uint8_t> counted) {
  SLUICE_INTERNAL_CHECK(static_cast<int64_t>(counted.size()) == tokens &&
                            static_cast<int64_t>(expert.size()) == tokens * top_k,
                        "selection of {} tokens x {} holds {} slots, {} marks", tokens, top_k,
                        expert.size(), counted.size());
  load.assign(static_cast<size_t>(experts), 0);
  for (int64_t token = 0; token < tokens; ++token) {
    if (counted[static_cast<size_t>(token)] == 0) continue;
    for (int64_t slot = token * top_k; slot < (token + 1) * top_k; ++slot) {
      const int32_t chosen = expert[static_cast<size_t>(slot)];
      if (chosen != kNoExpert) ++load[static_cast<size_t>(chosen)];
    }
  }
}

Tensor expert_index(Pool& pool, const Selection& selection) {
  return Tensor::of<int32_t>(pool, {selection.tokens, selection.top_k}, selection.expert);
}

int64_t expert_capacity(double factor, int64_t tokens, int64_t top_k, int64_t experts) {
  const double share = static_cast<double>(tokens * top_k) / static_cast<double>(experts);
  // 1.1 * 50 is a little more than 55 in binary; that is no reason for a seat more.
  constexpr double kRounding = 1e-9;
  const double seats = factor * share;
  return static_cast<int64_t>(std::ceil(seats - kRounding * std::max(1.0, seats)));
}

void Selection::count_dropped(std::span<const uint8_t> counted) {
  dropped = 0;
  for (size_t slot = 0; slot < dispatched.size(); ++slot) {
    const bool is_dropped = expert[slot] != kNoExpert && dispatched[slot] == kNoExpert;
    dropped += is_dropped && counted[slot / static_cast<size_t>(top_k)] != 0 ? 1 : 0;
  }
}

void LayerLoad::add(const Selection& selection, int64_t counted_tokens) {
  if (counts.empty()) counts.assign(selection.load.size(), 0);
  SLUICE_INTERNAL_CHECK(counts.size() == selection.load.size(),
                        "load of {} experts, selection of {}", counts.size(),
                        selection.load.size());
  for (size_t e = 0; e < counts.size(); ++e) counts[e] += selection.load[e];
  dropped += selection.dropped;
  tokens += counted_tokens;
  top_k = selection.top_k;
}

void LayerLoad::reduce(Communicator& communicator) {
  // One collective for everything: a layer's load is a few hundred bytes.
  std::vector<int64_t> values = counts;
  values.push_back(dropped);
  values.push_back(tokens);
  communicator.sum(std::span<int64_t>(values));
  counts.assign(values.begin(), values.end() - 2);
  dropped = values[values.size() - 2];
  tokens = values.back();
}

}  // namespace sluice
