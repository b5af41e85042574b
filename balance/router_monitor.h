#pragma once
// What routers show of their health beside the load: how sure they are, and how far their logits
// have grown.
//
//   RouterMonitor monitor(session.layers());
//   { const RoutingWatch watch(session, monitor); ... micro-batches ... }
//   monitor.reduce(communicator);
//   const std::vector<RouterStatistics> layers = monitor.layers();
//
// Sums over the counted tokens of a global batch, in f64: over fixed blocks of tokens, then over
// micro-batches and ranks in their order. Scores are read as constants.

#include <span>
#include <vector>

#include "layers/routing.h"

namespace sluice {

/// Means over the counted tokens of one layer; all zero without one. p are the probabilities of the
/// router (rows sum to 1), before a balancer's shift.
struct RouterStatistics {
  double entropy = 0.0;     // -sum p log p, in nats: 0 for a router that is sure, log E at most
  double logit_norm = 0.0;  // sqrt(sum_i z_i^2) of the logits
  double top_margin = 0.0;  // largest p minus the second largest; 1 for one expert
  /// Sum of p over the chosen experts (Qwen's report: higher under a global-batch loss).
  double chosen_probability = 0.0;
};

class RouterMonitor final : public RoutingObserver {
 public:
  explicit RouterMonitor(int64_t layers) : sums_(static_cast<size_t>(layers)) {}

  void observe(const RoutingObservation& observation) override;
  /// Sums over ranks.
  void reduce(Communicator& communicator);
  /// Means of what was seen, one per expert layer.
  [[nodiscard]] std::vector<RouterStatistics> layers() const;

 private:
  struct Sums {
    double tokens = 0.0;
    double entropy = 0.0;
    double logit_norm = 0.0;
    double top_margin = 0.0;
    double chosen_probability = 0.0;
    Sums& operator+=(const Sums& other);
  };
  template <class T>
  [[nodiscard]] static Sums sums_of(const RoutingObservation& seen, int64_t begin, int64_t end);

  std::vector<Sums> sums_;  // [layer]
};

}  // namespace sluice
