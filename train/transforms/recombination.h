#pragma once
// Neurons of dropped experts, given to the experts that are left (transforming/recombine.cpp).

#include <cstdint>
#include <span>

#include "train/transforms/expert_neurons.h"

namespace sluice {

struct Recombination {
  ExpertNeurons experts;  // those that are left, as wide as before
  int64_t assigned = 0;   // neurons of dropped experts that went to an expert,
  int64_t discarded = 0;  // and that were like none of its neurons
};

/// `kept` in ascending order; `usage` is [E] and weighs an expert's neurons. A neuron of a dropped expert
/// goes to the expert that has the neuron of largest cosine with it (ties: the first), unless that is
/// below `threshold`. An expert that gets some clusters all of its neurons into as many as it had, by
/// k-means of at most `rounds` rounds from its own; each cluster becomes its weighted mean. Experts that
/// get none keep their bits.
[[nodiscard]] Recombination recombine_neurons(const ExpertNeurons& experts,
                                              std::span<const int32_t> kept,
                                              std::span<const double> usage, double threshold,
                                              int64_t rounds);

}  // namespace sluice
