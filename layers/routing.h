#pragma once
// Routing: which tokens go to which experts, and the abstract balancer that corrects the load.
//
// A router (layers/routers) says who could go where: logits and scores. A balancer
// (balance/methods) decides whom a selection favours, adds losses, and learns once per step from
// the load of the whole global batch. The expert layer holds both only through the interfaces of
// this file.
//
// Letters: N tokens of a micro-batch, E experts, k experts per token, M tokens with a loss in the
// global batch.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/core/communicator.h"
#include "autograd/core/state.h"
#include "autograd/core/tape.h"
#include "autograd/support/function_ref.h"
#include "autograd/support/scheduled.h"
#include "layers/active_experts.h"
#include "layers/sequence_layout.h"

namespace sluice {

/// Expert number of a slot that goes nowhere (dropped, or a null expert).
inline constexpr int32_t kNoExpert = -1;

/// Who was chosen, for one layer and one micro-batch. Made once: recomputation and replay use the
/// record.
struct Selection {
  int64_t tokens = 0;
  int64_t experts = 0;
  int64_t top_k = 0;
  /// [N, k]: chosen experts, best first; kNoExpert where a slot is empty. k is the recipe's top_k,
  /// or more where a method gives a token as many experts as it likes (BalancerTraits::varies_k) or
  /// a router takes all of them in evaluation.
  std::vector<int32_t> expert;
  /// [N, k]: the same with kNoExpert where an assignment was dropped for lack of capacity; empty
  /// when nothing was.
  std::vector<int32_t> dispatched;
  /// [E]: assignments of counted tokens before any drop.
  std::vector<int64_t> load;
  /// True when a balancer's bias or price ranked the experts beside their scores.
  bool shifted = false;
  /// Assignments of counted tokens that were dropped for lack of capacity.
  int64_t dropped = 0;
  /// What the balancer wants to see again when it computes combine weights of this selection (the
  /// potentials of a transport plan); empty for most. Recorded with it, so that recomputation sees
  /// the same.
  std::vector<double> plan;
  /// [N, k]: combine weights that stand in for those of balancer and router, which then get no
  /// gradient through them; empty but for recorded decisions that are replayed with their weights.
  std::vector<float> fixed_weights;

  /// [E]: what `load` would be of a plain top-k of the scores, where a balancer has asked for it
  /// (Balancer::count_unbiased); else empty.
  std::vector<int64_t> unbiased_load;

  /// Counts `load` from `expert`; `counted` is [N].
  void count_load(std::span<const uint8_t> counted);
  /// Counts `dropped` from `dispatched`.
  void count_dropped(std::span<const uint8_t> counted);
  friend bool operator==(const Selection&, const Selection&) = default;
};

/// selection.expert as an i32 tensor [N, k], for gathers.
[[nodiscard]] Tensor expert_index(Pool& pool, const Selection& selection);

/// C = ceil(factor * tokens * top_k / experts): how many assignments an expert takes where its room
/// is limited.
[[nodiscard]] int64_t expert_capacity(double factor, int64_t tokens, int64_t top_k,
                                      int64_t experts);

/// What a router computed for the tokens of a micro-batch, on the tape.
struct RouterScores {
  Tensor logits;         // [N, E], before the score function
  Tensor scores;         // [N, E], after it: softmax or sigmoid; selection ranks these
  Tensor probabilities;  // [N, E], rows sum to 1: the scores, or sigmoid scores divided by their
                         // row sum
  /// What noisy logits are made of, for losses that ask how likely a choice was; undefined where
  /// nothing was added.
  Tensor clean_logits = {};  // [N, E], before the noise
  Tensor noise_scale = {};   // [N, E], standard deviation of the noise
  /// [N, Z]: scores of Z null experts, which do nothing; with `scores` their rows sum to 1.
  /// Undefined for routers without.
  Tensor null_scores = {};
  Tensor null_logits = {};  // [N, Z], before the score function; undefined with null_scores
};

/// Load of one layer over the whole global batch: all micro-batches, all ranks, counted tokens
/// only.
struct LayerLoad {
  std::vector<int64_t> counts;  // [E], before drops
  int64_t dropped = 0;
  int64_t tokens = 0;  // counted tokens
  int64_t top_k = 0;
  std::vector<int64_t> unbiased;  // [E], of Selection::unbiased_load; empty where nobody counts it

  /// Forgets everything and keeps the memory.
  void clear();
  /// Adds the load of one micro-batch; the first one fixes E.
  void add(const Selection& selection, int64_t counted_tokens);
  /// Adds another load of the same layer.
  void add(const LayerLoad& other);
  /// Sums over ranks. Every rank must know E: have added a selection, be it of no tokens.
  void reduce(Communicator& communicator);
  friend bool operator==(const LayerLoad&, const LayerLoad&) = default;
};

/// What a balancer may look at when it routes or adds losses.
struct RouterInput {
  const RouterScores& router;
  const SequenceLayout& layout;
  int64_t top_k;
  const Progress& progress;
  /// Tokens with a loss (M) and sequences in the global batch: denominators of every loss.
  int64_t valid_tokens;
  int64_t global_sequences;
  /// Training: a method may update what it keeps between batches. Evaluation must change nothing.
  bool training;
  /// The router's own choice: top-k of scores + shift under the router's grouping. shift is [E], or
  /// [N, E] where it depends on the token, or empty for none.
  FunctionRef<void(std::span<const double> shift, Selection&)> choose;
  /// Load of the step so far, this micro-batch included once it is selected: of this rank, or of all
  /// ranks where BalancerTraits::needs_running_counts asks for it; null where there is no step
  /// (evaluation).
  const LayerLoad* step_load = nullptr;
};

/// Losses are minimised beside the language-model loss and reported apart from it.
enum class LossKind : uint8_t { balance, router_z, depth, multi_token };
inline constexpr int kLossKinds = 4;

struct AuxiliaryLoss {
  LossKind kind;
  Tensor
      value;  // one element, on the tape, already weighted and divided by the global batch's tokens
};

/// What a method is, apart from its mathematics; recipes, tests and reports go by it.
struct BalancerTraits {
  bool selects = false;              // replaces or shifts the selection; at most one per layer
  bool batch_dependent = false;      // a token's route may depend on its micro-batch neighbours
  bool needs_global_counts = false;  // wants the load of the whole global batch before its losses
  bool needs_noise = false;          // has no loss without RouterScores::noise_scale
  bool varies_k = false;             // a token may get fewer or more than top_k experts
  /// Wants RouterInput::step_load to be summed over ranks after every selection.
  bool needs_running_counts = false;
};

/// Corrects the load of one layer. One object per expert layer and method; the method owns its
/// state whole.
class Balancer {
 public:
  virtual ~Balancer() = default;
  [[nodiscard]] virtual BalancerTraits traits() const = 0;
  /// How many experts a token uses in training, given the number under the router's own choice:
  /// another for a method that chooses by itself.
  [[nodiscard]] virtual ActiveExperts active_experts(const ActiveExpertsQuery& /*query*/,
                                                     const ActiveExperts& of_router) const {
    return of_router;
  }
  /// Chooses experts; called once per micro-batch in training and evaluation, never in
  /// recomputation, without recording.
  virtual void route(const RouterInput& input, Selection& selection) {
    input.choose({}, selection);
  }
  /// May fill selection.unbiased_load. After route or a replayed decision, in every pass of a step;
  /// on every micro-batch or on none, since loads are summed over ranks. Must not change state.
  virtual void count_unbiased(const RouterInput& /*input*/, Selection& /*selection*/) {}
  /// Combine weights [N, selection.top_k] on the tape, in the dtype of the scores, 0 for empty
  /// slots; undefined: the router's own. Called after route in training and evaluation, and again
  /// in recomputation: must not change state.
  [[nodiscard]] virtual Tensor combine_weights(Tape& /*tape*/, const RouterInput& /*input*/,
                                               const Selection& /*selection*/) {
    return {};
  }
  /// Adds differentiable losses of this micro-batch. `global_load` is the load of the whole global
  /// batch when traits().needs_global_counts, else null. Not called in evaluation nor in the
  /// counting pass; called again in recomputation: must not change state.
  virtual void add_losses(Tape& /*tape*/, const RouterInput& /*input*/,
                          const Selection& /*selection*/, const LayerLoad* /*global_load*/,
                          std::vector<AuxiliaryLoss>& /*losses*/) {}
  /// Once per micro-batch of the ordinary pass, in order, when its backward pass is over: this
  /// rank's selections in every expert layer of the model. For what spans layers; not in a counting
  /// pass nor in evaluation.
  virtual void end_micro_batch(std::span<const Selection* const> /*layers*/) {}
  /// Sums over ranks what the method gathered in this step beside the load. Once per step, on every
  /// rank, before end_step; called also when the update is then skipped.
  virtual void reduce(Communicator& /*communicator*/) {}
  /// Once per applied optimizer step, with the load of its global batch; a load without assignments
  /// changes nothing.
  virtual void end_step(const LayerLoad& /*load*/, const Progress& /*progress*/) {}
  /// Everything that must survive a resume, and whatever a step gathers: the counting pass and a
  /// skipped update are undone by putting it back.
  virtual void visit_state(StateVisitor& /*visitor*/) {}
  /// Numbers worth watching beside the load statistics ("bias_range"): name, value.
  virtual void metrics(std::vector<std::pair<std::string, double>>& /*metrics*/) const {}
};

/// What one micro-batch did in one expert layer, for those who watch.
struct RoutingObservation {
  int64_t layer;  // number of the expert layer
  const RouterScores& router;
  const Selection& selection;
  const SequenceLayout& layout;
  const Tensor& weights;                    // [N, selection.top_k], combine weights
  std::span<const int32_t> token_ids = {};  // [N]
  int64_t top_k = 0;                        // asked for at this point of the run
  // What a routed layer also tells; null from others.
  const Tensor* experts_read = nullptr;  // [N, D], before dispatch
  const Tensor* residual = nullptr;      // [N, D], the stream that the layer's sublayer adds to
};

/// Watches routing without taking part: metrics, traces. Called once per expert layer and
/// micro-batch, in the ordinary pass of a step and in evaluation; not in recomputation, in a
/// counting pass, or where there are only shapes.
class RoutingObserver {
 public:
  virtual ~RoutingObserver() = default;
  virtual void observe(const RoutingObservation& observation) = 0;
};

/// An expert layer that is about to route a micro-batch.
struct RouteRequest {
  int64_t layer;  // number of the expert layer
  const SequenceLayout& layout;
  std::span<const int32_t> token_ids;  // [N]
  int64_t experts;                     // E
  int64_t top_k;                       // asked for at this point of the run
  BalancerTraits traits;
};

/// Decides routes in the place of router and balancer: replays recorded ones. Balancers then do not
/// route, and what they learn while routing stands still; they still add losses and learn from
/// loads.
class RouteSource {
 public:
  virtual ~RouteSource() = default;
  /// Fills everything of `selection` but its counts and returns true; or leaves it empty and
  /// returns false: the layer then routes by itself. Called once per expert layer and micro-batch of
  /// every pass, a counting pass included; never in recomputation.
  [[nodiscard]] virtual bool choose(const RouteRequest& request, Selection& selection) = 0;
};

/// What a balancer is made for.
struct BalancerSetup {
  int64_t layer;                   // index of the expert layer among expert layers
  int64_t experts;                 // E
  int64_t top_k;                   // largest k that the run uses
  int64_t layers = 1;              // expert layers of the model
  uint64_t seed = 0;               // of the run: keys the method's random numbers
  double initial_logit_std = 1.0;  // as in ActiveExpertsQuery
};

}  // namespace sluice
