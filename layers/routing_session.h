#pragma once
// One run's routing state: the balancers of every expert layer, the loads of the current global
// batch, and the journal of selections that recomputation replays.

#include <cstdint>
#include <memory>
#include <vector>

#include "layers/routing.h"

namespace sluice {

class RoutingSession {
 public:
  /// One balancer per expert layer, in order; empty for a dense model.
  explicit RoutingSession(std::vector<std::unique_ptr<Balancer>> balancers);

  [[nodiscard]] int64_t layers() const { return static_cast<int64_t>(balancers_.size()); }
  [[nodiscard]] Balancer& balancer(int64_t layer) {
    return *balancers_[static_cast<size_t>(layer)];
  }
  /// Some method wants the global counts before its losses.
  [[nodiscard]] bool needs_global_counts() const;
  /// Some method's routes depend on the micro-batch.
  [[nodiscard]] bool batch_dependent() const;

  // --- a training step, in this order ------------------------------------------------------------
  /// Forgets loads and selections. `micro_batches` of this rank's share of the global batch follow.
  void begin_step(int64_t micro_batches);
  /// Opens the counting pass: micro-batches are routed without gradients, then end_counting() sums
  /// their loads over ranks and puts the balancers' state back as it was.
  void begin_counting();
  void end_counting(Communicator& communicator);
  /// The selections of micro-batch `index` follow.
  void begin_micro_batch(int64_t index) { micro_batch_ = index; }
  /// Sums the loads over ranks; checks them against the counting pass when there was one. Throws
  /// InternalError when they differ.
  void finish_loads(Communicator& communicator);
  /// Lets every balancer learn from the loads; not called for a skipped update.
  void end_step(const Progress& progress);
  /// Loads of the last finished global batch, one per expert layer.
  [[nodiscard]] const std::vector<LayerLoad>& loads() const { return loads_; }

  // --- for the expert layer
  // ------------------------------------------------------------------------
  /// The selection of `layer` for this micro-batch: made by the balancer through `make`, or the
  /// recorded one when `replay`. Valid until the next begin_step or begin_evaluation.
  [[nodiscard]] const Selection& select(int64_t layer, bool replay, int64_t counted_tokens,
                                        FunctionRef<void(Balancer&, Selection&)> make);
  /// The load that losses should use: of the counting pass when there was one; of the micro-batch
  /// itself when the step is one micro-batch on one rank; null when nobody needs it.
  [[nodiscard]] const LayerLoad* global_load(int64_t layer) const;

  // --- evaluation
  // ----------------------------------------------------------------------------------
  /// Selections are neither counted into the training loads nor kept; eval_loads() sums them until
  /// the next call.
  void begin_evaluation();
  void end_evaluation() { evaluating_ = false; }
  [[nodiscard]] const std::vector<LayerLoad>& eval_loads() const { return eval_loads_; }
  [[nodiscard]] bool evaluating() const { return evaluating_; }
  /// True inside the counting pass: routes are made, losses are not wanted.
  [[nodiscard]] bool counting() const { return counting_; }

  /// State of every balancer under "<layer>/".
  void visit_state(StateVisitor& visitor);

 private:
  std::vector<std::unique_ptr<Balancer>> balancers_;
  std::vector<LayerLoad> loads_;
  std::vector<LayerLoad> counted_loads_;
  std::vector<LayerLoad> eval_loads_;
  std::vector<std::vector<Selection>> journal_;  // [micro-batch][layer]
  std::vector<Selection> eval_selections_;       // [layer]
  std::vector<std::byte> snapshot_;
  int64_t micro_batch_ = 0;
  int64_t micro_batches_ = 1;
  bool counting_ = false;
  bool counted_ = false;
  bool evaluating_ = false;
};

}  // namespace sluice
