// Partial preservation (SlimQwen 2026): of the E' experts that are left the better half stays as it is,
// and all others are merged into the other half.
//
//   preserved   the floor(E' / 2) experts that a criterion scores best, bit for bit
//   seeds       the next E' - floor(E' / 2)
//   groups      every remaining expert joins the seed with the nearest router logits on the calibration
//               text; the mean of a group is weighed by the scores, of which those below 0 count as 0
//
// Router rows are those of the preserved experts and of the seeds. Known from its abstract and a
// digest; what "nearest" means and that neurons are aligned first are ours [R].

#include <algorithm>

#include "train/transforms/transforming.h"

namespace sluice {
namespace {

struct PartialMergeConfig final : Configurable {
  int64_t num_experts = 8;
  Tagged criterion = criterion_of(frequency_criterion);
  bool align = true;
  void fields(FieldVisitor& v) override {
    num_experts_field(v, num_experts);
    v.tagged({"criterion", "what an expert is worth"}, criterion, criterion_choices());
    v.boolean({"align", "put the members' neurons into the seed's order first"}, align);
  }
};

class PartialMerge final : public FewerExperts {
 public:
  explicit PartialMerge(const PartialMergeConfig& config)
      : FewerExperts(config.num_experts, partial_merge_transform.name), config_(config) {}

  [[nodiscard]] CalibrationNeeds needs() const override {
    return {.outputs = criterion_registry().at(config_.criterion.type).needs_outputs};
  }
  [[nodiscard]] std::string label() const override {
    return "partial_merge " + config_.criterion.type;
  }

  [[nodiscard]] std::vector<ExpertChange> change(const TransformInput& input) const override {
    std::vector<ExpertChange> changes;
    for (size_t i = 0; i < input.layers.size(); ++i) {
      const std::vector<double> scores = score_experts(config_.criterion, scored_layer(input, i));
      const std::vector<int32_t> ranked = ranked_experts(scores);
      const auto preserved = static_cast<size_t>(config_.num_experts / 2);
      const auto seeds = static_cast<size_t>(config_.num_experts) - preserved;
      std::vector<std::vector<int32_t>> groups =
          join_nearest_logits(input.statistics[i], std::span(ranked).subspan(preserved), seeds);
      for (size_t p = 0; p < preserved; ++p) groups.push_back({ranked[p]});
      // Criteria of logits give scores below 0, of which no mean can be weighed.
      std::vector<double> shares = scores;
      for (double& share : shares) share = std::max(share, 0.0);
      ExpertChange change = merge_groups(input, i, std::move(groups), shares, config_.align);
      change.scores = scores;
      changes.push_back(std::move(change));
    }
    return changes;
  }

 private:
  PartialMergeConfig config_;
};

}  // namespace

const TransformEntry partial_merge_transform = {
    .name = "partial_merge",
    .doc =
        "half of what is left stays as it is, all others are merged into the other half (SlimQwen "
        "2026)",
    .make_config = make_transform_config<PartialMergeConfig>,
    .make = make_transform<PartialMerge, PartialMergeConfig>,
};

}  // namespace sluice
