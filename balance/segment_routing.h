#pragma once
// Segment routing best performance (SRP): how well one choice of experts per segment of m
// consecutive tokens could stand in for the choice per token (Liang et al. 2025, "Not All Models
// Suit Expert Offloading: On Local Routing Consistency of Mixture-of-Expert Models").
//
// A window is m consecutive tokens of a sequence, every start; f is how many of them use an expert.
// A segment router that activates an expert on the whole window where f >= alpha has
//
//   F1(alpha) = 2 sum_{f >= alpha} f / (m #{f >= alpha} + sum f)
//   SRP = max over alpha in 0 .. m,   size ratio = m #{f >= alpha*} / sum f
//
// over all experts, sequences and windows of a layer, or of all layers with one alpha. Of equal F1
// the smallest alpha counts (ours). Sequences shorter than m have no window. All tokens count, with
// or without a loss: who caches experts serves them all.

#include <cstdint>
#include <vector>

#include "balance/metrics.h"

namespace sluice {

struct SegmentRouting {
  double best_f1 = 0.0;     // SRP, from 0 to 1; NaN where there is no window with an activation
  double size_ratio = 0.0;  // activations of the segment router over those of the router
  int64_t threshold = 0;    // alpha*
};

class SegmentRoutingCounter {
 public:
  /// Windows of `segment` tokens, at least 1.
  explicit SegmentRoutingCounter(int64_t segment);

  /// Adds one sequence through a layer of `experts` experts: O(N k + E).
  void add(int64_t experts, const Choices& sequence);
  /// Adds what another layer has counted, for the figure of the whole model.
  void add(const SegmentRoutingCounter& other);

  [[nodiscard]] int64_t segment() const { return segment_; }
  [[nodiscard]] SegmentRouting result() const;
  /// F1 at one threshold.
  [[nodiscard]] double f1(int64_t threshold) const;

 private:
  struct Sums {
    double activations = 0.0;  // sum of f over the pairs with f >= alpha
    double pairs = 0.0;        // #{f >= alpha}
  };
  [[nodiscard]] Sums sums_from(int64_t threshold) const;
  [[nodiscard]] double f1(const Sums& above, double activations) const;

  int64_t segment_;
  std::vector<int64_t> pairs_;  // [m + 1]: (window, expert) pairs with f activations
};

}  // namespace sluice
