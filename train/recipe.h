#pragma once
// The recipe: everything that decides a run, typed.
//
//   const Recipe recipe = load_recipe({{"recipes/quickstart.yaml"}, {"train.steps=100"}});
//
// Every section is the config of the component it configures; what spans sections is checked here.
// A recipe only chooses: build.h makes objects from it, trainer.h runs them.

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"
#include "data/config.h"
#include "layers/context.h"
#include "layers/model.h"
#include "train/checkpoint/store.h"
#include "train/field_snapshot.h"
#include "train/metrics/metric_log.h"
#include "train/yaml_document.h"

namespace sluice {

/// `train.evaluate`
struct EvaluateConfig final : Configurable {
  std::optional<Duration> every = Duration{100, DurationUnit::steps};  // "never"
  std::optional<int64_t> max_tokens;                                   // per domain; "all"
  void fields(FieldVisitor& v) override;
};

/// `train.consistency`
struct ConsistencyConfig final : Configurable {
  Scheduled coefficient = 1.0;
  void fields(FieldVisitor& v) override;
};

/// `train`
struct TrainConfig final : Configurable {
  Duration steps{600, DurationUnit::steps};
  Duration global_batch{8192, DurationUnit::tokens};
  std::optional<Duration> micro_batch;                   // "auto"
  std::optional<Recompute> recompute = Recompute::none;  // "auto"
  std::string memory_budget = "none";
  Scheduled head_z_loss = 0.0;
  std::shared_ptr<Configurable> consistency;   // ConsistencyConfig; null for "none"
  std::shared_ptr<Configurable> distillation;  // DistillationConfig; null for "none"
  std::shared_ptr<Configurable> pruning;       // PruningConfig; null for "none"
  EvaluateConfig evaluate;
  int64_t max_nonfinite = 3;
  std::string max_time = "none";
  std::optional<std::string> init_from;
  std::vector<std::string> freeze;
  std::vector<std::string> unfreeze;
  std::vector<int64_t> freeze_experts;
  std::shared_ptr<Configurable> trace;   // TraceConfig, or null
  std::shared_ptr<Configurable> replay;  // ReplayConfig, or null

  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
  /// memory_budget in bytes; nullopt for "none".
  [[nodiscard]] std::optional<int64_t> budget_bytes() const;
  /// max_time in seconds; nullopt for "none".
  [[nodiscard]] std::optional<double> max_seconds() const;
  /// nullopt for a step of one pass.
  [[nodiscard]] std::optional<Scheduled> consistency_coefficient() const;
};

struct Recipe final : Configurable {
  int64_t seed = 1;
  std::optional<int64_t> threads;  // "auto": all processors
  ModelConfig model;
  std::vector<Tagged> balance;
  DataConfig data;
  Tagged optim;
  TrainConfig train;
  std::shared_ptr<Configurable> upcycle;  // UpcycleConfig; null for "none"
  CheckpointConfig checkpoint;
  LogConfig log;

  Recipe();
  void fields(FieldVisitor& v) override;
  /// Rules over several sections: an MoE model needs a balancing method, a dense one has none, ...
  [[nodiscard]] std::string check() const override;
  /// The model has a layer that routes.
  [[nodiscard]] bool has_experts() const;
};

/// Reads and checks a recipe whole. Throws ConfigError with one line per problem.
[[nodiscard]] Recipe load_recipe(const RecipeSource& source);
/// Why some routed layers of the model do not see every token: one clause, or "".
[[nodiscard]] std::string layers_of_some_tokens(const ModelConfig& model);

/// Reads the text of a resolved recipe (of a run folder, of a checkpoint). `label` stands in
/// messages.
[[nodiscard]] Recipe parse_recipe(std::string_view text, const std::string& label);
/// Every key with its value, defaults included: what is saved with a run.
[[nodiscard]] std::string resolved_text(Recipe recipe);

/// The keys that differ between the recipe of a run and the one it shall be resumed with, without
/// those that may change: length of the run, logging, evaluation, checkpointing, threads.
[[nodiscard]] std::vector<FieldDifference> refused_changes(Recipe before, Recipe after);

/// "800 MiB", "2 GiB", "1.5 GB" in bytes. Throws ConfigError saying what is allowed.
[[nodiscard]] int64_t parse_memory(std::string_view text);

/// "90 s", "30 m", "1.5 h" in seconds. Throws ConfigError saying what is allowed.
[[nodiscard]] double parse_wall_time(std::string_view text);

/// Longest document that the model can read, in tokens; nullopt when nothing bounds it.
[[nodiscard]] std::optional<int64_t> max_context(const ModelConfig& config);

}  // namespace sluice
