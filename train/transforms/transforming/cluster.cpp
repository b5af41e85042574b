// UNCURL (Sarkar et al. 2024, "Revisiting SMoE Language Models by Evaluating Inefficiencies with Task
// Specific Expert Pruning", arXiv 2409.01483): experts are clustered by the logits that a task's text gives
// them, and a cluster becomes one expert.
//
//   A_ij = (1 + correlation of the logit columns of i and j) / 2
//
// Spectral clustering of A (spectral_clusters.h) into `num_experts` groups; the members' neurons are put
// into the order of the most used member's and averaged by usage. Known from a digest; that a group's
// router row is the mean of its members' rows is ours [R].

#include <algorithm>
#include <functional>
#include <numeric>

#include "train/transforms/spectral_clusters.h"
#include "train/transforms/transforming.h"

namespace sluice {
namespace {

struct ClusterConfig final : Configurable {
  int64_t num_experts = 8;
  bool align = true;
  void fields(FieldVisitor& v) override {
    num_experts_field(v, num_experts);
    v.boolean({"align", "put the members' neurons into the most used member's order first"}, align);
  }
};

/// [E, E]
std::vector<double> affinity(const LayerStatistics& seen) {
  std::vector<std::vector<double>> centred;
  for (int64_t e = 0; e < seen.experts; ++e) {
    std::vector<double> column = seen.logits_of(e);
    const double mean =
        std::accumulate(column.begin(), column.end(), 0.0) / static_cast<double>(column.size());
    for (double& logit : column) logit -= mean;
    centred.push_back(std::move(column));
  }
  std::vector<double> result;
  for (const auto& a : centred) {
    for (const auto& b : centred) result.push_back((1.0 + cosine(a, b)) / 2.0);
  }
  return result;
}

class Cluster final : public FewerExperts {
 public:
  explicit Cluster(const ClusterConfig& config)
      : FewerExperts(config.num_experts, cluster_transform.name), config_(config) {}

  [[nodiscard]] std::string label() const override { return "cluster"; }

  [[nodiscard]] std::vector<ExpertChange> change(const TransformInput& input) const override {
    std::vector<ExpertChange> changes;
    for (size_t i = 0; i < input.layers.size(); ++i) {
      const LayerStatistics& seen = input.statistics[i];
      std::vector<std::vector<int32_t>> groups =
          spectral_clusters(affinity(seen), seen.experts, config_.num_experts);
      for (std::vector<int32_t>& group : groups) {
        std::ranges::stable_sort(group, std::greater<>(),
                                 [&](int32_t e) { return seen.chosen[static_cast<size_t>(e)]; });
      }
      ExpertChange change = merge_groups(input, i, std::move(groups), seen.chosen, config_.align);
      change.scores = seen.chosen;
      change.router_rows = mean_router_rows(input, i, change, seen.chosen);
      changes.push_back(std::move(change));
    }
    return changes;
  }

 private:
  ClusterConfig config_;
};

}  // namespace

const TransformEntry cluster_transform = {
    .name = "cluster",
    .doc =
        "spectral clusters of experts by their logits become one expert each (UNCURL 2024, arXiv "
        "2409.01483)",
    .make_config = make_transform_config<ClusterConfig>,
    .make = make_transform<Cluster, ClusterConfig>,
};

}  // namespace sluice
