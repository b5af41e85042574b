#pragma once
// Which experts of a layer matter: criteria that score every expert on a calibration text.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/registry.h"
#include "train/transforms/calibration.h"

namespace sluice {

/// What a criterion is told of a layer.
struct ScoredLayer {
  std::string path;   // "layers.1", by which numbers are drawn
  uint64_t seed = 0;  // of the transformation
  const LayerStatistics& statistics;
};

/// A line of pruning.def.
struct CriterionEntry {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  /// [E]: the larger, the more an expert is worth keeping.
  std::vector<double> (*score)(const ScoredLayer&, const Configurable&);
  bool needs_outputs = false;  // CalibrationNeeds
};

#define SLUICE_CRITERION(name) extern const CriterionEntry name##_criterion;
#include "train/transforms/pruning.def"
#undef SLUICE_CRITERION

[[nodiscard]] const Registry<CriterionEntry>& criterion_registry();
/// For FieldVisitor::tagged.
[[nodiscard]] std::span<const Choice> criterion_choices();
/// A criterion without settings of its own.
[[nodiscard]] Tagged criterion_of(const CriterionEntry& entry);
[[nodiscard]] std::vector<double> score_experts(const Tagged& criterion, const ScoredLayer& layer);

/// The experts in the order of their scores, best first; ties to the lower number, NaN last.
[[nodiscard]] std::vector<int32_t> ranked_experts(std::span<const double> scores);
/// The `count` best ones in the order of their numbers.
[[nodiscard]] std::vector<int32_t> best_experts(std::span<const double> scores, int64_t count);

/// The config of a criterion that has no settings.
struct NoSettings final : Configurable {
  void fields(FieldVisitor&) override {}
};
[[nodiscard]] inline std::unique_ptr<Configurable> make_no_settings() {
  return std::make_unique<NoSettings>();
}

}  // namespace sluice
