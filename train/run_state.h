#pragma once
// Where a run stands, apart from its tensors and its data: counters and histories. Part of every
// checkpoint, so that a resumed run reports what an uninterrupted one would have.

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/core/state.h"
#include "balance/load.h"
#include "balance/probe.h"
#include "train/alarms.h"
#include "train/loss_history.h"

namespace sluice {

struct RunState {
  /// `dead_after`: steps without a token after which an expert counts as dead.
  RunState(std::span<const int64_t> experts_per_layer, int64_t dead_after)
      : loads(experts_per_layer, dead_after), unrecorded_load(experts_per_layer.size()) {
    for (size_t i = 0; i < unrecorded_load.size(); ++i) {
      unrecorded_load[i].assign(static_cast<size_t>(experts_per_layer[i]), 0);
    }
  }

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
  /// What the next records need of the past: assignments since the last load record, the choices of
  /// the last evaluation, the alarms.
  std::vector<std::vector<int64_t>> unrecorded_load;  // [layer][E]
  RememberedChoices choices;
  AlarmState alarms;

  /// Counts the load of an applied step.
  void add_load(std::span<const LayerLoad> step_loads) {
    loads.add(step_loads);
    for (size_t layer = 0; layer < unrecorded_load.size(); ++layer) {
      for (size_t e = 0; e < unrecorded_load[layer].size(); ++e) {
        unrecorded_load[layer][e] += step_loads[layer].counts[e];
      }
    }
  }

  /// The layers have other experts from here on: what is remembered of single ones starts anew.
  void change_experts(std::span<const int64_t> experts_per_layer, int64_t dead_after) {
    RunState anew(experts_per_layer, dead_after);
    loads = std::move(anew.loads);
    unrecorded_load = std::move(anew.unrecorded_load);
    choices = {};
  }

  void forget_unrecorded_load() {
    for (auto& layer : unrecorded_load) layer.assign(layer.size(), 0);
  }

  /// True for what checkpoints of earlier versions lack; it then starts anew.
  [[nodiscard]] static bool may_be_missing(std::string_view path) {
    return path.starts_with("run/watch/");
  }

  void visit_state(StateVisitor& v) {
    v.integer("step", step);
    v.integer("tokens", tokens);
    v.integer("skipped", skipped);
    v.integer("skipped_in_row", skipped_in_row);
    v.number("seconds", seconds);
    v.number("best_eval_loss", best_eval_loss);
    v.integer("best_eval_step", best_eval_step);
    losses.visit_state(v);
    {
      const StateScope scope(v, "loads");
      loads.visit_state(v);
    }
    const StateScope watch(v, "watch");
    {
      const StateScope scope(v, "unrecorded_load");
      for (size_t layer = 0; layer < unrecorded_load.size(); ++layer) {
        const auto experts = std::ssize(unrecorded_load[layer]);
        const int64_t dims[] = {experts};
        v.array<int64_t>(std::to_string(layer), unrecorded_load[layer], dims);
      }
    }
    {
      const StateScope scope(v, "choices");
      choices.visit_state(v);
    }
    const StateScope scope(v, "alarms");
    alarms.visit_state(v);
  }
};

}  // namespace sluice
