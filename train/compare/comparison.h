#pragma once
// A comparison: variations of one recipe on the same data and seeds.
//
//   base: quickstart.yaml            # relative to this file
//   set: {data.sequence_length: 128}  # optional: settings of every run
//   models:                          # optional: each is crossed with every variation
//     e16k2: {model.experts.num_experts: 16, model.experts.top_k: 2}
//   variations:
//     none: {balance: {type: none}}
//     aux: {balance: {type: aux_loss}, grid: {balance.coefficient: [1.0e-3, 1.0e-2]}}
//   seeds: [1, 2, 3]
//   budget: 1M tokens                # of each run
//
// An entry `key: value` of a model or a variation is what `--set key=value` is, with the place of
// the comparison's own file in messages. A `grid` maps keys to lists of values and stands for all
// their combinations, named variation-key=value. Every model is also trained dense with as many
// parameters as a token of the model uses (dense_twin.h).

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"
#include "train/plan.h"
#include "train/recipe.h"

namespace sluice {

/// The name of a dense twin among a model's variations.
inline constexpr std::string_view kDenseTwin = "dense_twin";

/// The keys of a comparison file but its three maps (models, variations, grid).
struct ComparisonConfig final : Configurable {
  std::string base;
  std::vector<int64_t> seeds{1, 2, 3};
  std::optional<Duration> budget;  // "recipe"
  bool dense_twin = true;
  bool keep_checkpoints = false;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

/// One model under one variation.
struct ComparisonCell {
  std::string model;  // empty when the file names no models
  std::string variation;
  Recipe recipe;  // with the first seed
  Plan plan;
  /// Of a twin: what was derived from the model, and how closely it matches.
  std::string note;

  [[nodiscard]] bool is_twin() const { return variation == kDenseTwin; }
  /// "e16k2-bip", or "bip" without models.
  [[nodiscard]] std::string name() const;
  /// "e16k2-bip-s1": of the run's folder and of its result.
  [[nodiscard]] std::string run_name(int64_t seed) const;
  [[nodiscard]] Recipe recipe_of(int64_t seed) const;
  /// Tokens of one run.
  [[nodiscard]] int64_t tokens() const;
  /// FLOPs of one run, as `plan` counts them.
  [[nodiscard]] double flops() const;
};

struct Comparison {
  std::string name;  // stem of its file
  ComparisonConfig config;
  /// By model in the order of the file; in each the variations, the dense twin last.
  std::vector<ComparisonCell> cells;
  /// Sentences that a person should read before the first run.
  std::vector<std::string> notes;
};

/// Reads a comparison whole and plans every cell. Throws ConfigError with everything that is wrong,
/// in the file, in the base recipe or in a combination of them, one line per problem.
[[nodiscard]] Comparison load_comparison(const std::filesystem::path& file);

/// Whether the file is a comparison and no recipe: it has the key `base`.
[[nodiscard]] bool is_comparison_file(const std::filesystem::path& file);

}  // namespace sluice
