#include "layers/routers/node_limited.h"

#include <algorithm>
#include <array>
#include <limits>

#include "layers/routers/choose.h"

namespace sluice {

void NodeLimitedConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kGroupScores = {"max", "top2_sum"};
  TopKRouterConfig::fields(v);
  v.integer({"n_group", "number of equal groups of experts"}, n_group, {.min = 1});
  v.integer({"topk_group", "groups a token may use"}, topk_group, {.min = 1});
  v.word({"group_score", "score of a group: max (DeepSeek-V2), or top2_sum (DeepSeek-V3)"},
         group_score, kGroupScores);
}

std::string NodeLimitedConfig::check_against(int64_t num_experts, int64_t top_k) const {
  if (num_experts % n_group != 0) {
    return fmt::format("router.n_group: found {}, allowed a divisor of num_experts ({})", n_group,
                       num_experts);
  }
  if (topk_group > n_group) {
    return fmt::format("router.topk_group: found {}, allowed 1 to {} (n_group)", topk_group,
                       n_group);
  }
  if (top_k > topk_group * (num_experts / n_group)) {
    return fmt::format("top_k: found {}, allowed 1 to {} (topk_group * experts per group)", top_k,
                       topk_group * (num_experts / n_group));
  }
  return TopKRouterConfig::check_against(num_experts, top_k);
}

namespace {

constexpr double kExcluded = -std::numeric_limits<double>::infinity();

class NodeLimitedRouter final : public TopKRouter {
 public:
  NodeLimitedRouter(const Builder& b, const RouterSetup& setup, const NodeLimitedConfig& config)
      : TopKRouter(b, setup, config),
        groups_(config.n_group),
        kept_(config.topk_group),
        sum_of_two_(config.group_score == "top2_sum") {}

  void choose(const ForwardContext& /*context*/, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    choose_top_k(scores.scores, shift, top_k, selection,
                 [this](std::span<double> biased) { exclude_groups(biased); });
  }

 private:
  [[nodiscard]] double group_score(std::span<const double> group) const {
    double first = kExcluded;
    double second = kExcluded;
    for (const double score : group) {
      if (score > first) {
        second = first;
        first = score;
      } else if (score > second) {
        second = score;
      }
    }
    return sum_of_two_ && group.size() > 1 ? first + second : first;
  }

  void exclude_groups(std::span<double> biased) const {
    const size_t width = biased.size() / static_cast<size_t>(groups_);
    ArenaScope scratch(thread_arena());
    const std::span<double> score(scratch.allocate<double>(groups_), static_cast<size_t>(groups_));
    for (size_t g = 0; g < score.size(); ++g)
      score[g] = group_score(biased.subspan(g * width, width));
    for (size_t g = 0; g < score.size(); ++g) {
      // Rank among groups, ties to the lower index.
      int64_t rank = 0;
      for (size_t other = 0; other < score.size(); ++other) {
        rank += score[other] > score[g] || (score[other] == score[g] && other < g) ? 1 : 0;
      }
      if (rank >= kept_) std::ranges::fill(biased.subspan(g * width, width), kExcluded);
    }
  }

  int64_t groups_;
  int64_t kept_;
  bool sum_of_two_;
};

}  // namespace

const RouterEntry node_limited_router = {
    .name = "node_limited",
    .doc =
        "top-k within the best groups of experts (DeepSeek-V2, arXiv 2405.04434; DeepSeek-V3, "
        "arXiv 2412.19437)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<NodeLimitedConfig>();
    },
    .make = [](const Builder& b, const RouterSetup& setup,
               const Configurable& config) -> std::unique_ptr<Router> {
      return std::make_unique<NodeLimitedRouter>(b, setup,
                                                 dynamic_cast<const NodeLimitedConfig&>(config));
    },
};

}  // namespace sluice
