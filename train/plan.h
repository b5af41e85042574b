#pragma once
// What a recipe will cost, found by running one training step on shapes only: the code that counts
// is the code that runs.

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "autograd/core/cost.h"
#include "autograd/core/tape.h"
#include "autograd/support/pool.h"
#include "layers/active_experts.h"
#include "train/build.h"
#include "train/parameter_count.h"

namespace sluice {

/// What a token uses and costs at one moment of a run, or on average over it.
struct PlannedActivity {
  int64_t step = 0;       // steps done before; of the average 0
  ActiveExperts experts;  // routed experts per token, mean over the routed layers
  double active_parameters = 0.0;
  double flops_per_token = 0.0;  // forward and backward
};

/// How the number of experts per token goes over the run, by its schedules (top_k, temperature,
/// threshold, capacity). A router that has learned may differ from `expected` within the bounds.
struct PlannedActivities {
  PlannedActivity start;
  PlannedActivity middle;
  PlannedActivity end;   // the last step
  PlannedActivity mean;  // over the steps
};

/// What the teacher of train.distillation adds to a run.
struct PlannedTeacher {
  std::string checkpoint;
  int64_t parameters = 0;
  /// Of its forward pass and the divergence, where it is asked.
  double flops_per_token = 0.0;
  double share_of_steps = 1.0;  // in which it is asked
};

/// The model after a stage of train.pruning.
struct PlannedStage {
  int64_t step = 0;  // steps done before
  ParameterCount parameters;
};

struct Plan {
  ParameterCount parameters;         // of the run's start
  std::vector<PlannedStage> stages;  // of train.pruning
  RunSizes sizes;
  /// Of one optimizer step on full sequences of one document each: FLOPs and bytes by phase and
  /// direction, without a teacher.
  CostMeter cost;
  int64_t tokens = 0;  // of that step
  /// High-water mark of the tensor pool and its split, with experts evenly loaded, where top_k is
  /// largest and no slot is left empty, and with the teacher.
  MemoryUse peak;
  /// Bytes of the image of a checkpoint, which a run holds beside its tensors.
  int64_t checkpoint_bytes = 0;
  /// What the tape keeps of the largest micro-batch from its forward pass to its backward pass.
  SavedMemory saved;
  /// Nothing for a model without routed experts.
  std::optional<PlannedActivities> activity;
  /// Nothing for a run that asks none in any step.
  std::optional<PlannedTeacher> teacher;

  /// Matrix-product FLOPs of forward and backward, without extra forwards, per token of the step:
  /// with the top_k experts of the run's start.
  [[nodiscard]] double flops_per_token() const;
  /// The same for one phase.
  [[nodiscard]] double flops_per_token(Phase phase) const;
  /// On average over the run, with the experts that are expected, and the teacher.
  [[nodiscard]] double mean_flops_per_token() const;
  /// Of the model that the run ends with.
  [[nodiscard]] const ParameterCount& last_parameters() const {
    return stages.empty() ? parameters : stages.back().parameters;
  }
};

/// `vocab_size` is that of the tokenizer; `train_tokens` as in derive_sizes. With `train.recompute:
/// auto` the first of none, experts and all whose peak is within train.memory_budget. Throws
/// ConfigError when the recipe does not fit in its memory_budget, or its teacher is not there.
[[nodiscard]] Plan make_plan(const Recipe& recipe, int64_t vocab_size, int64_t train_tokens);

/// The sizes of make_plan's plan, without making one where the recipe bounds no memory.
[[nodiscard]] RunSizes run_sizes(const Recipe& recipe, int64_t vocab_size, int64_t train_tokens);

/// The vocabulary that a run of this recipe will have; trains no tokenizer. Throws ConfigError,
/// DataError.
[[nodiscard]] int64_t planned_vocab_size(const Recipe& recipe);

}  // namespace sluice
