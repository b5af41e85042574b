// Pruning: the experts that a criterion scores best stay as they are, the others go, and with them their
// router rows, biases and moments. A token goes to the best of those that are left: what it would do if
// the logits of the others were minus infinity.

#include "train/transforms/transforming.h"

namespace sluice {
namespace {

struct PruneConfig final : Configurable {
  int64_t num_experts = 8;
  Tagged criterion = criterion_of(reap_criterion);
  void fields(FieldVisitor& v) override {
    num_experts_field(v, num_experts);
    v.tagged({"criterion", "what an expert is worth"}, criterion, criterion_choices());
  }
};

class Prune final : public FewerExperts {
 public:
  explicit Prune(const PruneConfig& config) : FewerExperts(config.num_experts), config_(config) {}

  [[nodiscard]] CalibrationNeeds needs() const override {
    return {.outputs = criterion_registry().at(config_.criterion.type).needs_outputs};
  }
  [[nodiscard]] std::string label() const override { return "prune " + config_.criterion.type; }

  [[nodiscard]] std::vector<ExpertChange> change(const TransformInput& input) const override {
    std::vector<ExpertChange> changes;
    for (size_t i = 0; i < input.layers.size(); ++i) {
      ExpertChange change;
      change.scores = score_experts(config_.criterion, scored_layer(input, i));
      change.kept = best_experts(change.scores, config_.num_experts);
      changes.push_back(std::move(change));
    }
    return changes;
  }

 private:
  PruneConfig config_;
};

}  // namespace

const TransformEntry prune_transform = {
    .name = "prune",
    .doc = "the experts that a criterion scores best stay as they are",
    .make_config = make_transform_config<PruneConfig>,
    .make = make_transform<Prune, PruneConfig>,
};

}  // namespace sluice
