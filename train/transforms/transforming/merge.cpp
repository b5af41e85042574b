// M-SMoE (Li et al. 2024, "Merge, Then Compress", arXiv 2310.01334): experts that a router treats alike
// become one.
//
//   1. The most used experts of a layer are dominant.
//   2. Every other expert joins the dominant one with the nearest router logits: the largest
//      (cos(r_e, r_dom) + 1) / 2, r_e being the logits of e over the calibration text.
//   3. The members' neurons are put into the order of the dominant expert's that maximises the sum of
//      inner products, exactly (linear_assignment.h).
//   4. theta = sum of u_e theta_e over sum of u_e, u the usage.
//
// Two departures. The paper pools all layers when it looks for dominant experts, so that layers differ in
// their number; a layer here keeps `num_experts` as every other. The paper's router keeps all E rows, and
// members are names for one tensor, which saves no router and no balancer; here a group has one row:
// that of its dominant expert, or the mean of its members' rows by usage.

#include "train/transforms/transforming.h"

namespace sluice {
namespace {

struct MergeConfig final : Configurable {
  enum class Router : uint8_t { dominant, mean };
  int64_t num_experts = 8;
  bool align = true;
  Router router = Router::dominant;
  void fields(FieldVisitor& v) override {
    num_experts_field(v, num_experts);
    v.boolean({"align", "put the members' neurons into the dominant expert's order first"}, align);
    v.enumeration({"router", "a group's router row: the dominant expert's, or the members' mean"},
                  router, {{"dominant", Router::dominant}, {"mean", Router::mean}});
  }
};

class Merge final : public FewerExperts {
 public:
  explicit Merge(const MergeConfig& config)
      : FewerExperts(config.num_experts, merge_transform.name), config_(config) {}

  [[nodiscard]] std::string label() const override {
    return config_.align ? "merge" : "merge unaligned";
  }

  [[nodiscard]] std::vector<ExpertChange> change(const TransformInput& input) const override {
    std::vector<ExpertChange> changes;
    for (size_t i = 0; i < input.layers.size(); ++i) {
      const LayerStatistics& seen = input.statistics[i];
      const std::vector<int32_t> ranked = ranked_experts(seen.chosen);
      ExpertChange change = merge_groups(
          input, i, join_nearest_logits(seen, ranked, static_cast<size_t>(config_.num_experts)),
          seen.chosen, config_.align);
      change.scores = seen.chosen;
      if (config_.router == MergeConfig::Router::mean) {
        change.router_rows = mean_router_rows(input, i, change, seen.chosen);
      }
      changes.push_back(std::move(change));
    }
    return changes;
  }

 private:
  MergeConfig config_;
};

}  // namespace

const TransformEntry merge_transform = {
    .name = "merge",
    .doc =
        "experts with alike router logits become one, neuron by neuron (M-SMoE 2024, arXiv "
        "2310.01334)",
    .make_config = make_transform_config<MergeConfig>,
    .make = make_transform<Merge, MergeConfig>,
};

}  // namespace sluice
