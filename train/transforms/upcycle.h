#pragma once
// Carrying out the `upcycle` section of a recipe: the state that a run of experts starts with.
//
//   const Checkpoint from = read_checkpoint(config.from);
//   TrainedModel before = build_trained_model(from, config.from);
//   StateDict state = ...;                                  // of the new run, with its initial values
//   const std::vector<std::string> notes = upcycle_state({from, {}, recipe, before, data, options}, state);

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "data/dataset.h"
#include "data/loader.h"
#include "layers/ffns/dense.h"
#include "layers/ffns/moe.h"
#include "train/build.h"
#include "train/checkpoint/checkpoint.h"
#include "train/evaluate.h"

namespace sluice {

struct UpcycleConfig;

/// What an upcycling works with.
struct UpcycleJob {
  const Checkpoint& from;
  std::span<const Checkpoint> branches;  // of upcycle.branches
  const Recipe& recipe;                  // of the new run
  TrainedModel& before;                  // that of `from`
  const Dataset& data;                   // of the new run
  LoaderOptions training;
  EvaluationOptions evaluation;

  [[nodiscard]] const UpcycleConfig& config() const;
};

/// Overwrites `state`, the state of a new run of job.recipe, by what the checkpoints and the recipe's
/// scheme make of it; what no rule speaks of (routers, balancers) stays. Returns one sentence for each
/// choice that was made and each reason why the new model is not the one before. Throws ConfigError when
/// the models do not fit together, CheckpointError when an array is missing or has another shape.
std::vector<std::string> upcycle_state(const UpcycleJob& job, StateDict& state);

/// The checkpoints of upcycle.branches. Throws ConfigError when one is missing or reads text by another
/// tokenizer than `from`; CheckpointError.
[[nodiscard]] std::vector<Checkpoint> branch_checkpoints(const Recipe& recipe,
                                                         const Checkpoint& from);

/// Factor of the routed experts' outputs that keeps the dense function, or its mean (upcycling.h).
/// `parts` is n / f. Throws ConfigError for a router whose combine weights are not known beforehand.
[[nodiscard]] double upcycling_scale(const Tagged& router, int64_t num_experts, int64_t top_k,
                                     double parts);

// --- for schemes -------------------------------------------------------------------------------

/// Throws ConfigError, beginning with `key`, listing the keys of the model on which two recipes must
/// agree and do not; `may_differ` are prefixes of keys below "model.".
void check_same_model(Recipe there, Recipe here, std::string_view key, const std::string& name,
                      std::span<const std::string_view> may_differ);

/// The recipes of the branches, in order. Throws ConfigError, with the branch's file.
[[nodiscard]] std::vector<Recipe> branch_recipes(const UpcycleJob& job);
/// check_same_model of every branch and `recipe`.
void check_branches_alike(const UpcycleJob& job, const Recipe& recipe,
                          std::span<const std::string_view> may_differ);
/// Throws CheckpointError, with `advice` at its end, unless `wanted`, the array at `path` of job.from, is
/// that of every branch, bit for bit.
void check_branches_share(const UpcycleJob& job, const std::string& path, const StateArray& wanted,
                          std::string_view advice);

/// A layer of experts and the dense layer that it comes from.
struct LayerPair {
  int64_t sublayer;
  std::string name;  // "layers.1"
  const ExpertsConfig& experts;
  const DenseConfig& dense;
};

/// Those of two models of equally many sublayers. Throws ConfigError when there is none, or when experts
/// stand where there is no dense feed-forward of their form.
[[nodiscard]] std::vector<LayerPair> layer_pairs(const ModelConfig& dense, const ModelConfig& model,
                                                 const std::string& from);

/// The array at `path`, of these sizes and type. Throws CheckpointError, naming `file`.
[[nodiscard]] const StateArray& array_of(const Checkpoint& checkpoint, const std::string& file,
                                         const std::string& path, std::span<const int64_t> dims,
                                         ElementType type);

/// upcycle.optimizer: keep, of which `kept` of `arrays` arrays were found. Throws ConfigError for none.
[[nodiscard]] std::string kept_moments(const UpcycleConfig& config, int64_t kept, int64_t arrays);
/// upcycle.step and upcycle.schedule: how far the new run's schedules are ahead of its steps.
[[nodiscard]] ScheduleOffset schedule_offset(const UpcycleJob& job);
/// upcycle.step, upcycle.schedule and upcycle.data: copies what is kept of job.from, and says so.
void keep_position(const UpcycleJob& job, StateDict& state, std::vector<std::string>& notes);

}  // namespace sluice
