// Task-conditioned expected selection score (PreMoe 2025): the raw logit of an expert, summed over the
// tokens for which it is sure to be chosen, over the number of tokens.
//
//   p_t = softmax over the K_a largest logits of t
//   s_e = (1 / n) sum over t with e among the K_a and p_te >= r of z_te
//
// The released setting is K_a = 1 and no threshold. Logits may be negative: an expert that is the best of
// bad ones may score below one that is never chosen (0), as published.

#include <algorithm>
#include <cmath>

#include "train/transforms/pruning.h"

namespace sluice {
namespace {

struct TcessConfig final : Configurable {
  int64_t candidates = 1;
  double threshold = 0.0;
  void fields(FieldVisitor& v) override {
    v.integer({"candidates", "K_a: how many largest logits of a token are looked at"}, candidates,
              {.min = 1});
    v.number({"threshold", "r: least share of the softmax over them that counts; 0: any"},
             threshold, {.min = 0.0, .max = 1.0});
  }
};

void add_token(std::span<const double> logits, const TcessConfig& config,
               std::vector<double>& sums) {
  std::vector<int32_t> best = ranked_experts(logits);
  best.resize(std::min(best.size(), static_cast<size_t>(config.candidates)));
  const auto value = [&](int32_t e) { return logits[static_cast<size_t>(e)]; };
  double sum = 0.0;
  for (const int32_t e : best) sum += std::exp(value(e) - value(best.front()));
  for (const int32_t e : best) {
    const double share = std::exp(value(e) - value(best.front())) / sum;
    if (share >= config.threshold) sums[static_cast<size_t>(e)] += value(e);
  }
}

}  // namespace

const CriterionEntry tcess_criterion = {
    .name = "tcess",
    .doc = "mean logit of an expert where it is sure to be chosen (PreMoe 2025, arXiv 2505.17639)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<TcessConfig>();
    },
    .score =
        [](const ScoredLayer& layer, const Configurable& settings) {
          const auto& config = dynamic_cast<const TcessConfig&>(settings);
          const LayerStatistics& seen = layer.statistics;
          const auto experts = static_cast<size_t>(seen.experts);
          std::vector<double> scores(experts);
          for (size_t row = 0; row < seen.logits.size(); row += experts) {
            add_token(std::span(seen.logits).subspan(row, experts), config, scores);
          }
          for (double& score : scores) score /= static_cast<double>(seen.tokens);
          return scores;
        },
};

}  // namespace sluice
