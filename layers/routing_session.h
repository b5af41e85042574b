#pragma once
// One run's routing state: the balancers of every expert layer, the loads of the current global
// batch, and the journal of selections that recomputation replays.
//
//   session.begin_step(micro_batches, communicator.size());
//   session.share_running_loads(communicator);
//   if (session.needs_counting_pass()) {
//     session.begin_counting();
//     for each micro-batch i: session.begin_micro_batch(i); forward without gradients
//     session.end_counting(communicator);
//   }
//   for each micro-batch i: session.begin_micro_batch(i); forward, backward
//   session.finish_loads(communicator);
//   if the update was applied: session.end_step(progress);

#include <cstdint>
#include <memory>
#include <span>
#include <utility>
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
  [[nodiscard]] const Balancer& balancer(int64_t layer) const {
    return *balancers_[static_cast<size_t>(layer)];
  }
  /// Some method wants the global counts before its losses.
  [[nodiscard]] bool needs_global_counts() const;
  /// Some method's routes depend on the micro-batch.
  [[nodiscard]] bool batch_dependent() const;

  // --- a training step, in this order ----------------------------------------------------------

  /// Forgets loads and selections. `micro_batches` (at least 1) of this rank's share of the global
  /// batch follow, on one of `ranks` ranks.
  void begin_step(int64_t micro_batches, int ranks = 1);
  /// Where a balancer needs running counts and there are several ranks: from here on every selection
  /// of the ordinary pass sums its load over ranks, so every rank must call this and route through
  /// all layers in the same order. A rank with fewer micro-batches than another joins the sums that
  /// it has left in finish_loads, with nothing. `communicator` must outlive the step.
  void share_running_loads(Communicator& communicator);
  /// The global counts are wanted and are more than those of one micro-batch on one rank.
  [[nodiscard]] bool needs_counting_pass() const;
  /// Opens the counting pass: micro-batches are routed without gradients, then end_counting() sums
  /// their loads over ranks and puts the balancers' state back as it was.
  void begin_counting();
  void end_counting(Communicator& communicator);
  /// True inside the counting pass: routes are made, losses are not wanted.
  [[nodiscard]] bool counting() const { return phase_ == Phase::counting; }
  /// The selections of micro-batch `index` follow; the micro-batch before is over.
  void begin_micro_batch(int64_t index);
  /// Sums the loads over ranks, and what the balancers gathered beside them. Throws InternalError
  /// when a layer routed nothing, when the loads
  /// differ from those of the counting pass, and when a needed counting pass was left out.
  void finish_loads(Communicator& communicator);
  /// Lets every balancer learn from the loads; not called for a skipped update.
  void end_step(const Progress& progress);
  /// Loads of the last finished global batch, one per expert layer.
  [[nodiscard]] const std::vector<LayerLoad>& loads() const { return loads_; }

  // --- for the expert layer --------------------------------------------------------------------

  /// The selection of `layer` for this micro-batch: made by the balancer through `make`, or the
  /// recorded one when `replay`. In training valid until the next begin_step; in the counting pass
  /// and in evaluation until the next selection of the layer.
  [[nodiscard]] const Selection& select(int64_t layer, bool replay, int64_t counted_tokens,
                                        FunctionRef<void(Balancer&, Selection&)> make);
  /// The load that losses should use: of the counting pass when there was one; of the micro-batch
  /// itself when the step is one micro-batch on one rank; null when nobody needs it or it is not
  /// known.
  [[nodiscard]] const LayerLoad* global_load(int64_t layer) const;
  /// The load that the selections of the step add up to so far: of this rank, or of all ranks once
  /// share_running_loads has been asked; null outside the ordinary pass.
  [[nodiscard]] const LayerLoad* step_load(int64_t layer) const;
  /// Sums over the step's tokens that the router of `layer` learns from: `size` zeros at first,
  /// summed over ranks by finish_loads, forgotten by begin_step. For the ordinary pass only.
  [[nodiscard]] std::span<double> router_sums(int64_t layer, int64_t size);
  /// The same for a sublayer that learns from sums (SublayerBody::num_sums), by its number in the model:
  /// empty outside the ordinary pass of a step, where nothing is learned. The model asks once for every
  /// such sublayer at the start of a pass, so that all ranks know of all.
  [[nodiscard]] std::span<double> layer_sums(int64_t sublayer, int64_t size);

  // --- evaluation ------------------------------------------------------------------------------

  /// Between steps. Selections are neither counted into the training loads nor kept; eval_loads()
  /// sums them until the next call.
  void begin_evaluation();
  void end_evaluation();
  [[nodiscard]] bool evaluating() const { return phase_ == Phase::evaluation; }
  [[nodiscard]] const std::vector<LayerLoad>& eval_loads() const { return eval_loads_; }
  /// Sums eval_loads() over ranks; a rank may have evaluated nothing. The load of a layer that no
  /// rank evaluated stays empty.
  void reduce_eval_loads(Communicator& communicator);

  // --- watching --------------------------------------------------------------------------------

  /// Passes on what an expert layer did to everyone who watches, in the order in which they began;
  /// nothing in the counting pass.
  void observe(const RoutingObservation& observation) const;

  // --- recorded decisions ----------------------------------------------------------------------

  /// Who decides instead of router and balancer; null for nobody. See RouteSourceScope.
  [[nodiscard]] RouteSource* source() const { return source_; }

  /// State of every balancer under "<layer>/".
  void visit_state(StateVisitor& visitor);

  /// An empty list for the losses of one layer: memory that expert layers share, one after another.
  [[nodiscard]] std::vector<AuxiliaryLoss>& empty_losses() {
    losses_.clear();
    return losses_;
  }

 private:
  enum class Phase : uint8_t { training, counting, evaluation, trial };
  /// A place for the selection of one layer and micro-batch; `made` says whether it is filled.
  /// Places are reused from step to step, so that a steady state allocates nothing.
  struct Record {
    Selection selection;
    bool made = false;
  };
  friend class RoutingWatch;
  friend class RouteSourceScope;
  friend class TrialScope;
  [[nodiscard]] Record& record(int64_t layer);
  void forget_selections();
  void end_micro_batch();
  /// Adds one micro-batch's load, summed over ranks, to running_loads_.
  void share(size_t layer, LayerLoad load);
  void join_remaining_sums();
  void check_against_counting_pass() const;

  std::vector<std::unique_ptr<Balancer>> balancers_;
  std::vector<LayerLoad> loads_;                  // [layer], of the step so far
  std::vector<LayerLoad> counted_loads_;          // [layer], of the counting pass
  std::vector<LayerLoad> eval_loads_;             // [layer]
  std::vector<std::vector<double>> router_sums_;  // [layer]
  std::vector<std::vector<double>> layer_sums_;   // [sublayer], empty where none are wanted
  std::vector<Record> journal_;                   // [micro-batch, layer]
  std::vector<Record> transient_;                 // [layer]: counting pass and evaluation
  std::vector<const Selection*> ended_;           // [layer], of the micro-batch that is over
  std::vector<AuxiliaryLoss> losses_;
  std::vector<RoutingObserver*> observers_;
  RouteSource* source_ = nullptr;
  StateSnapshot snapshot_;  // of the balancers, during the counting pass
  Phase phase_ = Phase::training;
  int64_t micro_batch_ = 0;
  int64_t micro_batches_ = 1;
  int ranks_ = 1;
  bool counted_ = false;  // counted_loads_ are those of this step
  bool routed_ = false;   // the micro-batch has made selections and is not over
  Communicator* running_communicator_ = nullptr;  // of the step; null: running loads stay apart
  int64_t most_micro_batches_ = 1;                // of any rank, where running loads are shared
  std::vector<LayerLoad> running_loads_;          // [layer], of all ranks, of the step so far
};

/// `observer` watches `session` while this lives.
class RoutingWatch {
 public:
  RoutingWatch(RoutingSession& session, RoutingObserver& observer);
  ~RoutingWatch();
  RoutingWatch(const RoutingWatch&) = delete;
  RoutingWatch& operator=(const RoutingWatch&) = delete;

 private:
  RoutingSession& session_;
  RoutingObserver* observer_;
};

/// `source` decides the routes of `session` while this lives; null: nobody does.
class RouteSourceScope {
 public:
  RouteSourceScope(RoutingSession& session, RouteSource* source)
      : session_(session), before_(std::exchange(session.source_, source)) {}
  ~RouteSourceScope() { session_.source_ = before_; }
  RouteSourceScope(const RouteSourceScope&) = delete;
  RouteSourceScope& operator=(const RouteSourceScope&) = delete;

 private:
  RoutingSession& session_;
  RouteSource* before_;
};

/// Passes over a step's tokens that only ask what would have been, between its micro-batches and
/// finish_loads(): while this lives `source` decides, and no selection is counted, kept or observed.
class TrialScope {
 public:
  TrialScope(RoutingSession& session, RouteSource& source);
  ~TrialScope();
  TrialScope(const TrialScope&) = delete;
  TrialScope& operator=(const TrialScope&) = delete;

 private:
  RoutingSession& session_;
  RouteSourceScope source_;
};

}  // namespace sluice
