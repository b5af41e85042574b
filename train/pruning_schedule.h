#pragma once
// train.pruning: experts that become fewer or narrower while a run goes on (SlimQwen 2026 finds that
// better than all at once for the same tokens; SlimMoE, Li et al. 2025, arXiv 2506.18349, takes stages
// with a teacher).
//
//   train:
//     pruning:
//       stages:
//         - {step: 200, method: {type: prune, num_experts: 12, criterion: {type: reap}}}
//         - {step: 400, method: {type: slim, intermediate_size: 96}}
//
// A stage is one transformation of the methods that `sluice transform` has, of the run itself: after the
// update of its step and before the next. What is kept keeps its weights, router rows, biases and moments
// bit for bit; data, schedules and the teacher go on. Which sizes a model has is a pure function of the
// recipe and of the number of stages that are done, which a checkpoint holds.
//
// Experts are watched on training text when a stage begins, with the weights of that moment: that follows
// from recipe and state alone. Statistics gathered in training would be of weights that have changed
// since, and would have to be kept for a run that is resumed.
//
// Experts that are spawned (spawn_experts.h) keep their shapes, so the step does that in place. Here
// shapes change, so the run makes anew what holds them.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/support/fields.h"
#include "train/build.h"
#include "train/checkpoint/checkpoint.h"
#include "train/recipe.h"

namespace sluice {

/// An item of `train.pruning.stages`.
struct PruningStage final : Configurable {
  int64_t step = 0;  // steps done
  Tagged method;     // of transforming.def
  void fields(FieldVisitor& v) override;
};

/// `train.pruning`
struct PruningConfig final : Configurable {
  std::vector<std::shared_ptr<Configurable>> stages;  // PruningStage
  int64_t calibration_tokens = 16384;
  std::optional<int64_t> probe_tokens = 16384;  // "all"
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;

  [[nodiscard]] int64_t num_stages() const { return static_cast<int64_t>(stages.size()); }
  /// From 0.
  [[nodiscard]] const PruningStage& stage(int64_t index) const;
};

/// Null for a recipe without.
[[nodiscard]] const PruningConfig* pruning_of(const Recipe& recipe);

/// The recipe of the model after the first `stages` stages: with their numbers and widths of experts,
/// and without train.pruning. Throws ConfigError when the recipe's rules refuse them.
[[nodiscard]] Recipe pruned_recipe(const Recipe& recipe, int64_t stages);

/// Why a stage cannot be done in a run of these sizes, one sentence; empty when all can.
[[nodiscard]] std::string check_pruning(const Recipe& recipe, const RunSizes& sizes);

/// Where a state holds the number of stages that are done; nowhere for a recipe without.
inline constexpr std::string_view kPrunedStages = "pruning/stages";
/// That number. Throws CheckpointError, naming `source`, when the recipe has not so many.
[[nodiscard]] int64_t pruned_stages(const StateDict& state, const Recipe& recipe,
                                    const std::string& source);
/// The recipe of the model that a checkpoint holds. Throws ConfigError, CheckpointError.
[[nodiscard]] Recipe checkpoint_recipe(const Checkpoint& checkpoint, const std::string& source);

}  // namespace sluice
