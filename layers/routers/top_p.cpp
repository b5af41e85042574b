// Top-p routing: as many experts as it takes to gather the probability p* (Huang et al. 2024,
// "Harder Tasks Need More Experts", arXiv 2403.07652).
//
//   p = softmax(z), sorted; k_t = least number of experts whose probabilities sum to more than p*
//   w = p (not renormalised: `weights: as_is`)
//
// `top_k` is the most that a token may use; the paper sets no limit (num_experts). Slots that a
// token does not use stay empty and cost nothing. p* = 1 takes every expert. A balancer's shift
// moves the ranking; the probabilities that are summed stay unshifted [R].
//
// The paper adds two losses, which are balancers here: the auxiliary loss (aux_loss with
// `fractions: tokens`: f sums to the mean k_t) and the mean entropy of p with weight 1e-4
// (entropy_loss), without which the router flattens p to use more experts.

#include <algorithm>
#include <functional>

#include "layers/routers/choose.h"
#include "layers/routers/initial_logits.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

struct TopPConfig final : TopKRouterConfig {
  Scheduled threshold = 0.4;
  TopPConfig() { weights = "as_is"; }

  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.scheduled({"threshold", "p*: experts are added until their probabilities sum to more"},
                threshold, {.min = 0.0, .max = 1.0});
  }
  /// Counts as `choose` does, on initial logits.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query) const override {
    const auto greatest = static_cast<double>(query.top_k);
    const double sum_wanted = threshold.at(query.progress);
    if (sum_wanted >= 1.0) return ActiveExperts::exactly(greatest);
    const double expected = mean_over_initial_logits(
        query.num_experts, query.initial_logit_std, [&](std::span<double> p, uint64_t) {
          softmax_inplace(p);
          std::sort(p.begin(), p.end(), std::greater<>());
          double sum = 0.0;
          size_t count = 0;
          while (count < p.size() && sum <= sum_wanted) sum += p[count++];
          return std::min(static_cast<double>(count), greatest);
        });
    return ActiveExperts::at_initial_values(expected, 1.0, greatest);
  }
  [[nodiscard]] std::string check() const override {
    if (scores != "softmax") {
      return fmt::format("scores: found {}, allowed softmax (top_p sums probabilities)", scores);
    }
    if (weights == "softmax_after") {
      return "weights: found softmax_after, allowed as_is or renormalise (slots may be empty)";
    }
    return {};
  }
  [[nodiscard]] bool varies_k() const override { return true; }
};

class TopPRouter final : public TopKRouter {
 public:
  TopPRouter(const Builder& b, const RouterSetup& setup, const TopPConfig& config)
      : TopKRouter(b, setup, config), threshold_(config.threshold) {}

  void choose(const ForwardContext& context, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override {
    choose_top_k(scores.scores, shift, top_k, selection);
    const double threshold = threshold_.at(context.progress);
    // At 1 rounding must not end the sum early.
    if (threshold >= 1.0 || !scores.scores.has_memory()) return;
    dispatch_float(scores.scores.dtype(), [&]<class T>() {
      const T* p = scores.scores.data<T>();
      keep_first(selection, [&](int64_t token, std::span<const int32_t> chosen) {
        double total = 0.0;
        int64_t count = 0;
        for (const int32_t expert : chosen) {
          total += static_cast<double>(p[token * selection.experts + expert]);
          ++count;
          if (total > threshold) break;
        }
        return count;
      });
    });
  }

 private:
  Scheduled threshold_;
};

}  // namespace

const RouterEntry top_p_router = {
    .name = "top_p",
    .doc = "experts until their probabilities sum to p* (Huang et al. 2024, arXiv 2403.07652)",
    .make_config = make_router_config<TopPConfig>,
    .make = make_router<TopPRouter, TopPConfig>,
};

}  // namespace sluice
