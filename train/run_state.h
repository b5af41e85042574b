#pragma once
// Where a run stands, apart from its tensors and its data: counters and histories. Part of every
// checkpoint, so that a resumed run reports what an uninterrupted one would have.

#include <cstdint>
#include <limits>
#include <span>

#include "autograd/core/state.h"
#include "balance/load.h"
#include "train/loss_history.h"

namespace sluice {

struct RunState {
  /// Steps without a token after which an expert counts as dead: a tenth of what papers take, as
  /// runs here have hundreds of steps.
  static constexpr int64_t kDeadAfterSteps = 100;

  explicit RunState(std::span<const int64_t> experts_per_layer)
      : loads(experts_per_layer, kDeadAfterSteps) {}

  int64_t step = 0;    // optimizer steps done, skipped updates included
  int64_t tokens = 0;  // training tokens consumed
  int64_t skipped = 0;
  int64_t skipped_in_row = 0;
  double seconds = 0.0;  // of training, over all processes of the run; differs between equal runs
  /// Lowest held-out loss so far, and the step after which it was found; infinite and -1 before.
  double best_eval_loss = std::numeric_limits<double>::infinity();
  int64_t best_eval_step = -1;
  LossHistory losses;
  LoadTracker loads;

  void visit_state(StateVisitor& v) {
    v.integer("step", step);
    v.integer("tokens", tokens);
    v.integer("skipped", skipped);
    v.integer("skipped_in_row", skipped_in_row);
    v.number("seconds", seconds);
    v.number("best_eval_loss", best_eval_loss);
    v.integer("best_eval_step", best_eval_step);
    losses.visit_state(v);
    const StateScope scope(v, "loads");
    loads.visit_state(v);
  }
};

}  // namespace sluice
