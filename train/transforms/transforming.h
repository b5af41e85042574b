#pragma once
// Methods that make a smaller model of a trained one: fewer experts, or narrower ones.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/registry.h"
#include "train/transforms/calibration.h"
#include "train/transforms/expert_change.h"
#include "train/transforms/pruning.h"

namespace sluice {

/// What a method is given: the model, and what its experts did on the calibration text.
struct TransformInput {
  TrainedModel& model;
  const StateDict& state;  // of the model's checkpoint
  std::span<const ExpertLayer> layers;
  std::span<const LayerStatistics> statistics;  // [layer]
  std::span<const Batch> text;                  // for calibration
  const Progress& progress;
  uint64_t seed = 0;
};

class Transform {
 public:
  virtual ~Transform() = default;
  [[nodiscard]] virtual CalibrationNeeds needs() const { return {}; }
  /// Throws ConfigError when the settings do not fit a layer.
  virtual void check(std::span<const ExpertLayer> layers) const = 0;
  /// What becomes of a layer of these sizes.
  [[nodiscard]] virtual ExpertSizes sizes(const ExpertSizes& before) const = 0;
  /// One change for each of input.layers, which were checked.
  [[nodiscard]] virtual std::vector<ExpertChange> change(const TransformInput& input) const = 0;
  /// For tables: the method and what tells it from others of its kind ("prune reap").
  [[nodiscard]] virtual std::string label() const = 0;
};

/// A line of transforming.def.
struct TransformEntry {
  std::string_view name;
  std::string_view doc;
  std::unique_ptr<Configurable> (*make_config)();
  std::unique_ptr<Transform> (*make)(const Configurable&);
};

/// The make_config and make of a method `M` with a constructor from its `Config`.
template <class Config>
[[nodiscard]] std::unique_ptr<Configurable> make_transform_config() {
  return std::make_unique<Config>();
}
template <class M, class Config>
[[nodiscard]] std::unique_ptr<Transform> make_transform(const Configurable& config) {
  return std::make_unique<M>(dynamic_cast<const Config&>(config));
}

#define SLUICE_TRANSFORM(name) extern const TransformEntry name##_transform;
#include "train/transforms/transforming.def"
#undef SLUICE_TRANSFORM

[[nodiscard]] const Registry<TransformEntry>& transform_registry();
/// For FieldVisitor::tagged.
[[nodiscard]] std::span<const Choice> transform_choices();

// --- for methods -----------------------------------------------------------------------------------

/// The field `num_experts` of a method: how many of a layer's experts are left.
void num_experts_field(FieldVisitor& v, int64_t& value);
/// Throws ConfigError unless every layer can be left with `count` experts: at least its top_k, at most
/// those that it has.
void check_num_experts(std::span<const ExpertLayer> layers, int64_t count);
/// Throws ConfigError unless the experts of every layer are SwiGLU, by whose neurons they are merged.
void check_swiglu(std::span<const ExpertLayer> layers, std::string_view method);
/// A method that leaves every layer `num_experts` of its experts.
class FewerExperts : public Transform {
 public:
  /// `takes_apart`: the method's name where it goes by neurons, which SwiGLU experts alone have.
  explicit FewerExperts(int64_t num_experts, std::string_view takes_apart = {})
      : num_experts_(num_experts), takes_apart_(takes_apart) {}
  void check(std::span<const ExpertLayer> layers) const final;
  [[nodiscard]] ExpertSizes sizes(const ExpertSizes& before) const final {
    return {num_experts_, before.width};
  }

 private:
  int64_t num_experts_;
  std::string_view takes_apart_;
};
[[nodiscard]] ScoredLayer scored_layer(const TransformInput& input, size_t layer);

/// The first `leaders` of `experts` and, behind each, those of the others whose logits on the calibration
/// text are nearest to its own: the largest (cos + 1) / 2, ties to the earlier leader.
[[nodiscard]] std::vector<std::vector<int32_t>> join_nearest_logits(
    const LayerStatistics& seen, std::span<const int32_t> experts, size_t leaders);
/// Experts merged into `groups`, of which each begins with the expert whose place it takes; by the
/// experts' shares, with neurons aligned to the first one's when `aligned`. Router rows are the first
/// ones' own. The groups are put into the order of their first experts.
[[nodiscard]] ExpertChange merge_groups(const TransformInput& input, size_t layer,
                                        std::vector<std::vector<int32_t>> groups,
                                        std::span<const double> shares, bool aligned);
/// The router rows of a layer, [E, D]. Throws ConfigError for a router without.
[[nodiscard]] std::vector<double> router_rows_of(const TransformInput& input, size_t layer);
/// The router rows of a change of groups: the mean of the members' rows by the shares.
[[nodiscard]] std::vector<double> mean_router_rows(const TransformInput& input, size_t layer,
                                                   const ExpertChange& change,
                                                   std::span<const double> shares);

}  // namespace sluice
