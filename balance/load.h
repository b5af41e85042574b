#pragma once
// Load statistics, defined once: reports, metrics and tests all take them from here.
//
// c_i are the assignments of expert i over a global batch (or an evaluation set), counted tokens
// only, before drops; c is their mean, f_i = c_i / sum_j c_j.

#include <cstdint>
#include <span>
#include <vector>

#include "layers/routing.h"

namespace sluice {

/// How the assignments of one load spread over the experts. All zero when there is no assignment.
struct LoadStatistics {
  double max_vio = 0.0;                   // (max c_i - c) / c, from 0 to E / k - 1
  double min_vio = 0.0;                   // (c - min c_i) / c, from 0 to 1
  double avg_vio = 0.0;                   // mean |c_i - c| / c
  double coefficient_of_variation = 0.0;  // population standard deviation of c_i over c
  double entropy = 0.0;                   // -sum f_i log f_i / log E, 1 for one expert
  double effective_experts = 0.0;         // exp(-sum f_i log f_i), from 1 to E
  double largest_share = 0.0;             // max f_i
  double idle_experts = 0.0;              // experts with c_i = 0 in this load
  double starved_experts = 0.0;           // experts with f_i < 0.1 / E, idle ones included
  double drop_rate = 0.0;                 // dropped assignments over all
  double experts_per_token = 0.0;         // k, or its mean where it varies; 0 when not known
  /// (effective_experts - k) / (E - k), from 0 (all tokens choose the same k) to 1 (balanced); 1
  /// where every token uses all experts, or k is not known. Ours: a share of E alone would depend
  /// on k.
  double spread = 0.0;
};

/// MaxVio of a training step's load is the paper's MaxVio_batch, of an evaluation set's
/// MaxVio_global (Wang et al. 2024, equation 4).
[[nodiscard]] LoadStatistics load_statistics(const LayerLoad& load);

/// Field by field; the model's figure is the mean over its expert layers. All zero for none.
[[nodiscard]] LoadStatistics mean_of(std::span<const LoadStatistics> layers);

/// What only many steps show.
struct LoadHistory {
  double avg_max_vio = 0.0;   // mean of MaxVio over all steps so far (AvgMaxVio)
  double sup_max_vio = 0.0;   // its maximum (SupMaxVio)
  double dead_experts = 0.0;  // experts without an assignment in the last `window` steps
};

/// Follows the loads of every expert layer through a run. Part of a checkpoint.
class LoadTracker {
 public:
  /// Experts of each expert layer, in order; `window` in steps, at least 1. No expert is dead
  /// before that many steps have passed.
  explicit LoadTracker(std::span<const int64_t> experts_per_layer, int64_t window);

  /// The loads of one step, one per layer. A layer without assignments changes nothing of its own.
  void add(std::span<const LayerLoad> loads);

  [[nodiscard]] LoadHistory layer(int64_t index) const;
  /// Mean over layers.
  [[nodiscard]] LoadHistory model() const;

  void visit_state(StateVisitor& visitor);

 private:
  struct Layer {
    int64_t steps = 0;
    double sum_max_vio = 0.0;
    double sup_max_vio = 0.0;
    std::vector<int64_t> steps_idle;  // [E]: since the last assignment
  };
  std::vector<Layer> layers_;
  int64_t window_;
};

}  // namespace sluice
