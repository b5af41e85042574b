// DERN (2025, "Dropping Experts, Recombining Neurons", arXiv 2509.10377): experts are dropped whole, their
// neurons are not.
//
//   1. The experts that a criterion scores lowest are dropped.
//   2. Each of their neurons goes to the expert that is left with the neuron most like it (largest
//      cosine over all three matrices), unless that is below `threshold`: then it is discarded.
//   3. Every expert clusters its own and the received neurons into as many as it had, from its own; a
//      cluster becomes its mean, weighed by the usage of the experts that its neurons come from.
//
// Known from the abstract; the rules of 2. and 3. are ours [R].

#include "train/transforms/recombination.h"
#include "train/transforms/transforming.h"

namespace sluice {
namespace {

struct RecombineConfig final : Configurable {
  int64_t num_experts = 8;
  Tagged criterion = criterion_of(soft_criterion);
  double threshold = 0.3;
  int64_t rounds = 10;
  void fields(FieldVisitor& v) override {
    num_experts_field(v, num_experts);
    v.tagged({"criterion", "what an expert is worth"}, criterion, criterion_choices());
    v.number({"threshold", "least cosine under which a neuron still goes to another"}, threshold,
             {.min = -1.0, .max = 1.0});
    v.integer({"rounds", "most rounds of k-means in an expert"}, rounds, {.min = 1});
  }
};

class Recombine final : public FewerExperts {
 public:
  explicit Recombine(const RecombineConfig& config)
      : FewerExperts(config.num_experts, recombine_transform.name), config_(config) {}

  [[nodiscard]] CalibrationNeeds needs() const override {
    return {.outputs = criterion_registry().at(config_.criterion.type).needs_outputs};
  }
  [[nodiscard]] std::string label() const override { return "recombine " + config_.criterion.type; }

  [[nodiscard]] std::vector<ExpertChange> change(const TransformInput& input) const override {
    std::vector<ExpertChange> changes;
    for (size_t i = 0; i < input.layers.size(); ++i) {
      ExpertChange change;
      change.scores = score_experts(config_.criterion, scored_layer(input, i));
      change.kept = best_experts(change.scores, config_.num_experts);
      Recombination made =
          recombine_neurons(read_neurons(input.state, input.layers[i].path), change.kept,
                            input.statistics[i].chosen, config_.threshold, config_.rounds);
      change.weights = std::move(made.experts);
      change.note =
          fmt::format("{}: {} neurons of dropped experts went to others, {} were discarded",
                      input.layers[i].path, made.assigned, made.discarded);
      changes.push_back(std::move(change));
    }
    return changes;
  }

 private:
  RecombineConfig config_;
};

}  // namespace

const TransformEntry recombine_transform = {
    .name = "recombine",
    .doc =
        "experts are dropped, their neurons go to experts with alike ones (DERN 2025, arXiv "
        "2509.10377)",
    .make_config = make_transform_config<RecombineConfig>,
    .make = make_transform<Recombine, RecombineConfig>,
};

}  // namespace sluice
