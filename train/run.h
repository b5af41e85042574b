#pragma once
// One training run in memory: everything that its recipe builds, and the state that a checkpoint
// keeps. No files: the trainer decides what is saved, reported and when.
//
//   SingleRank communicator;
//   Run run(recipe, communicator);            // or Run(recipe, communicator, checkpoint, name)
//   while (!run.finished()) StepResult result = run.step();

#include <memory>
#include <optional>
#include <string>

#include "data/dataset.h"
#include "data/loader.h"
#include "train/build.h"
#include "train/evaluate.h"
#include "train/run_state.h"
#include "train/step.h"
#include "train/trace/trace_replay.h"
#include "train/transforms/receipt.h"

namespace sluice {

struct TransformReceipt;  // train/transforms/transform.h

class Run {
 public:
  /// A new run, from initial values, from the weights of train.init_from, or from what `upcycle` makes of
  /// a dense checkpoint.
  Run(Recipe recipe, Communicator& communicator);
  /// A run that goes on behind `checkpoint` as if it had never stopped. `source` (its file) stands
  /// in messages. Throws CheckpointError when it does not fit the recipe, DataError when the data
  /// has changed.
  Run(Recipe recipe, Communicator& communicator, const Checkpoint& checkpoint,
      const std::string& source);

  [[nodiscard]] bool finished() const { return state_.step >= sizes_.steps; }
  /// One optimizer step on the next global batch, after the stages of train.pruning that are due.
  /// Context of errors: the step's number, from 1.
  [[nodiscard]] StepResult step(const StepWatch& watch = {});
  /// A stage of train.pruning comes before the next step.
  [[nodiscard]] bool pruning_is_due() const;
  /// Does it: model(), routing() and what else holds experts are other objects then. Takes memory of
  /// several times the model meanwhile. What changed, with the loss before and after on held-out text.
  TransformReceipt prune();
  /// The held-out loss now; nullopt when nothing is held out. Remembers the best, and the choices
  /// that the next evaluation compares with.
  [[nodiscard]] std::optional<Evaluation> evaluate();
  /// Forward passes of two held-out batches, without consequences: a model that cannot run fails
  /// here. Throws NumericError when their loss is not finite.
  void check_forward();

  /// Everything that must survive: "model/...", "optim/...", "balance/...", "data/...", "run/...", and
  /// with train.pruning "pruning/...".
  void visit_state(StateVisitor& visitor);
  /// What a checkpoint says beside the state. `eval_loss` is the held-out loss at this step, if
  /// known.
  [[nodiscard]] CheckpointMeta checkpoint_meta(std::optional<double> eval_loss) const;
  /// The same and a copy of the state as it is.
  [[nodiscard]] Checkpoint checkpoint(std::optional<double> eval_loss);

  [[nodiscard]] Progress progress() const { return sizes_.progress(state_.step, state_.tokens); }
  /// The same as schedules count it, which the model, the optimizer and the balancers go by.
  [[nodiscard]] Progress schedule() const {
    return sizes_.progress(state_.step, state_.tokens, schedule_offset_);
  }
  /// Where it will stand after the next step, of a full global batch.
  [[nodiscard]] Progress next_progress() const {
    return sizes_.progress(state_.step + 1, state_.tokens + sizes_.tokens_per_step);
  }
  /// How a new run was upcycled and compares with the dense model; nullopt for any other run.
  [[nodiscard]] const std::optional<UpcyclingReceipt>& upcycling() const { return upcycling_; }
  [[nodiscard]] const Recipe& recipe() const { return recipe_; }
  /// The recipe of the model as it is by now: see pruned_recipe.
  [[nodiscard]] const Recipe& current_recipe() const { return current_; }
  [[nodiscard]] const RunSizes& sizes() const { return sizes_; }
  [[nodiscard]] const Dataset& data() const { return data_; }
  [[nodiscard]] const Model& model() const { return *model_; }
  [[nodiscard]] const RoutingSession& routing() const { return *routing_; }
  /// For those who watch the routes of a step or an evaluation (RoutingWatch).
  [[nodiscard]] RoutingSession& routing() { return *routing_; }
  [[nodiscard]] RunState& state() { return state_; }
  [[nodiscard]] const RunState& state() const { return state_; }
  [[nodiscard]] CostMeter& meter() { return step_->meter(); }
  [[nodiscard]] const Pool& pool() const { return *pool_; }

 private:
  Run(Recipe recipe, Communicator& communicator, std::shared_ptr<const Tokenizer> tokenizer,
      int64_t stages);
  Run(Recipe recipe, Communicator& communicator, const std::optional<Checkpoint>& initial);
  void visit_learned(StateVisitor& visitor);
  void rebuild(Recipe current);
  void check_replay() const;
  void upcycle(const Checkpoint& from);
  [[nodiscard]] EvaluationParts evaluation_parts() {
    return {*pool_, *model_, *routing_, communicator_};
  }
  [[nodiscard]] StepParts step_parts() {
    return {*pool_, *model_, *routing_, *optimizer_, communicator_};
  }

  Recipe recipe_;
  int64_t pruned_stages_;
  Recipe current_;
  Communicator& communicator_;
  Dataset data_;
  RunSizes sizes_;
  std::unique_ptr<Pool> pool_;  // outlives every tensor below
  std::unique_ptr<Model> model_;
  std::unique_ptr<RoutingSession> routing_;
  std::unique_ptr<Optimizer> optimizer_;
  Loader loader_;
  RunState state_;
  ScheduleOffset schedule_offset_;
  StepOptions step_options_;
  std::optional<TrainingStep> step_;
  std::optional<StepReplay> replay_;  // train.replay
  std::optional<UpcyclingReceipt> upcycling_;
};

}  // namespace sluice
