// Mixture of Grouped Experts (Tang et al. 2025, "Pangu Pro MoE", arXiv 2505.21411).
//
//   s = softmax(z) over all experts; every group of E / G experts gives its k / G best; w = s
//
// The weights are not renormalised in the published formulas (`weights: as_is`). With one group per
// device every device gets exactly N k / G assignments, whatever the router says: the imbalance
// score between groups is 0 by construction. The paper's loss takes the global scores, as aux_loss
// does. Where a schedule of k passes through a k that G does not divide, every group offers its
// ceil(k / G) best and the k best of them are taken [R].

#include <algorithm>
#include <cmath>
#include <limits>

#include "autograd/support/parallel.h"
#include "layers/routers/choose.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

constexpr double kExcluded = -std::numeric_limits<double>::infinity();

struct GroupedTopKConfig final : TopKRouterConfig {
  int64_t num_groups = 2;
  GroupedTopKConfig() { weights = "as_is"; }

  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.integer({"num_groups", "equal groups G of experts, each of which gives k / G (Pangu Pro: 8)"},
              num_groups, {.min = 1});
  }

  [[nodiscard]] std::string check_against(int64_t num_experts, int64_t top_k) const override {
    if (num_experts % num_groups != 0) {
      return fmt::format("router.num_groups: found {}, allowed a divisor of num_experts ({})",
                         num_groups, num_experts);
    }
    if (top_k % num_groups != 0) {
      return fmt::format("top_k: found {}, allowed a multiple of router.num_groups ({})", top_k,
                         num_groups);
    }
    return TopKRouterConfig::check_against(num_experts, top_k);
  }
  [[nodiscard]] bool restricts() const override { return num_groups > 1; }
};

class GroupedTopKRouter final : public TopKRouter {
 public:
  GroupedTopKRouter(const Builder& b, const RouterSetup& setup, const GroupedTopKConfig& config)
      : TopKRouter(b, setup, config), groups_(config.num_groups) {}

  void choose(const ForwardContext& /*context*/, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    const auto of_group = static_cast<size_t>(ceil_div(top_k, groups_));
    choose_top_k(scores.scores, shift, top_k, selection,
                 [&](std::span<double> biased) { keep_best_of_groups(biased, of_group); });
  }

 private:
  /// Excludes all but the `kept` best of every group.
  void keep_best_of_groups(std::span<double> biased, size_t kept) const {
    const size_t width = biased.size() / static_cast<size_t>(groups_);
    ArenaScope scratch(thread_arena());
    const std::span<double> group(scratch.allocate<double>(static_cast<int64_t>(width)), width);
    for (size_t begin = 0; begin < biased.size(); begin += width) {
      for (size_t i = 0; i < width; ++i) {
        // NaN comes last in its group, but stays before what is excluded.
        double& score = biased[begin + i];
        if (std::isnan(score)) score = std::numeric_limits<double>::lowest();
        group[i] = score;
      }
      for (size_t i = 0; i < width; ++i) {
        size_t rank = 0;  // ties to the lower index
        for (size_t j = 0; j < width; ++j) {
          rank += group[j] > group[i] || (group[j] == group[i] && j < i) ? 1 : 0;
        }
        if (rank >= kept) biased[begin + i] = kExcluded;
      }
    }
  }

  int64_t groups_;
};

}  // namespace

const RouterEntry grouped_top_k_router = {
    .name = "grouped_top_k",
    .doc = "the same number of experts from every group (Pangu Pro MoE 2025, arXiv 2505.21411)",
    .make_config = make_router_config<GroupedTopKConfig>,
    .make = make_router<GroupedTopKRouter, GroupedTopKConfig>,
};

}  // namespace sluice
