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

namespace {

/// Counts per expert; the first ones fix E.
void add_to(std::vector<int64_t>& sums, const std::vector<int64_t>& counts) {
  if (sums.empty()) sums.assign(counts.size(), 0);
  SLUICE_INTERNAL_CHECK(sums.size() == counts.size(), "load of {} experts, selection of {}",
                        sums.size(), counts.size());
  for (size_t e = 0; e < sums.size(); ++e) sums[e] += counts[e];
}

}  // namespace

void LayerLoad::clear() {
  counts.clear();
  unbiased.clear();
  dropped = tokens = top_k = 0;
}

void LayerLoad::add(const Selection& selection, int64_t counted_tokens) {
  add_to(counts, selection.load);
  add_to(unbiased, selection.unbiased_load);
  dropped += selection.dropped;
  tokens += counted_tokens;
  top_k = selection.top_k;
}

void LayerLoad::add(const LayerLoad& other) {
  add_to(counts, other.counts);
  add_to(unbiased, other.unbiased);
  dropped += other.dropped;
  tokens += other.tokens;
  top_k = other.top_k;
}

void LayerLoad::reduce(Communicator& communicator) {
  // One collective for everything: a layer's load is a few hundred bytes.
  std::vector<int64_t> values = counts;
  values.insert(values.end(), {dropped, tokens});
  values.insert(values.end(), unbiased.begin(), unbiased.end());
  communicator.sum(std::span<int64_t>(values));
  const auto after_counts = values.begin() + static_cast<int64_t>(counts.size());
  counts.assign(values.begin(), after_counts);
  dropped = after_counts[0];
  tokens = after_counts[1];
  unbiased.assign(after_counts + 2, values.end());
}

}  // namespace sluice
