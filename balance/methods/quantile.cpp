// Quantile balancing: a price per expert at which it would have taken exactly its share.
//
//   route: top-k of s - beta; combine weights come from s alone
//   alpha_t = (k + 1)-th largest over i of s_ti - beta_i
//   beta^_i = (C + 1)-th largest over t of s_ti - alpha_t,   C = floor(T k / E)
//   step:  beta <- rho beta + (1 - rho) beta^,   then   beta <- beta - mean(beta)
//
// J. Su 2026, parts 6 and 7 of his series on Mixture-of-Experts, as used by Kimi K3 (on sigmoid
// scores) and by Megatron-LM. The half-steps are those of bip without the truncation at 0, so that a
// starved expert is raised as well; the dual's gradient in beta is C - c, so loss_free_bias is its
// sign descent. A step routes with the beta of the step before: a token's route depends on no other
// token.
//
// The step's beta^ is pooled over micro-batches and ranks in one of two ways. `pooling: mean` is the
// mean of the micro-batches' beta^, weighed by their counted tokens [R]; `iterations` repeats the
// half-steps within each, with its own beta. `pooling: histogram` counts the biases alpha_t - s_ti
// that would have been enough, in `bins` equal bins between the least bias - 1 and the greatest + 1
// (outer bins take what lies beyond, which scores between 0 and 1 never do), and takes the
// k / E-quantile, linear within a bin [R]: however the tokens are sharded, the result is the same.
//
// Where E does not divide T k, C is rounded down [R]. Tokens without a loss set no price, nor does
// what is not finite. The form with a varying number of experts per token is quantile_dynamic.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>

#include "autograd/support/parallel.h"
#include "balance/method.h"
#include "balance/token_mean.h"

namespace sluice {
namespace {

/// Tokens handled at once.
constexpr int64_t kTokenBlock = 512;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

constexpr int64_t kDefaultBins = 1000;

enum class Pooling : uint8_t { mean, histogram };

struct QuantileConfig final : Configurable {
  Pooling pooling = Pooling::mean;
  int64_t iterations = 1;
  int64_t bins = kDefaultBins;
  double momentum = 0.0;

  void fields(FieldVisitor& v) override {
    v.enumeration({"pooling",
                   "mean: the mean of the micro-batches' prices; histogram: the quantile of the "
                   "whole global batch, to the width of a bin"},
                  pooling, {{"mean", Pooling::mean}, {"histogram", Pooling::histogram}});
    v.integer({"iterations", "rounds of prices per micro-batch, for pooling: mean"}, iterations,
              {.min = 1, .max = 1000});
    v.integer({"bins", "bins per expert, for pooling: histogram"}, bins,
              {.min = 2, .max = 1000000});
    v.number({"momentum", "share rho of the old prices that a step keeps"}, momentum,
             {.min = 0.0, .max = 1.0});
  }
  [[nodiscard]] std::string check() const override {
    if (pooling == Pooling::mean && bins != kDefaultBins) {
      return fmt::format("bins: found {}, read by pooling: histogram only", bins);
    }
    if (pooling == Pooling::histogram && iterations != 1) {
      return fmt::format("iterations: found {}, allowed 1 (pooling: histogram)", iterations);
    }
    return {};
  }
};

/// The scores of the counted tokens in double, NaN as the least.
struct CountedScores {
  int64_t tokens;  // T
  int64_t experts;
  std::vector<double> values;  // [T, E]

  explicit CountedScores(const RouterInput& input) : experts(input.router.scores.dim(1)) {
    const auto& counted = input.layout.counted;
    std::vector<int64_t> rows;
    for (size_t t = 0; t < counted.size(); ++t) {
      if (counted[t] != 0) rows.push_back(static_cast<int64_t>(t));
    }
    tokens = static_cast<int64_t>(rows.size());
    values.resize(static_cast<size_t>(tokens * experts));
    dispatch_float(input.router.scores.dtype(), [&]<class T>() {
      const T* scores = input.router.scores.data<T>();
      parallel_for_ranges(tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
        for (int64_t t = begin; t < end; ++t) {
          const T* row = scores + rows[static_cast<size_t>(t)] * experts;
          std::transform(row, row + experts, values.begin() + t * experts, [](T score) {
            return std::isnan(score) ? -kInfinity : static_cast<double>(score);
          });
        }
      });
    });
  }
};

/// The r-th largest of values, r from 1 to their number; reorders them.
double rth_largest(std::span<double> values, int64_t r) {
  const auto place = values.begin() + (r - 1);
  std::nth_element(values.begin(), place, values.end(), std::greater<>());
  return *place;
}

/// alpha [T].
std::vector<double> price_tokens(const CountedScores& scores, std::span<const double> beta,
                                 int64_t top_k) {
  std::vector<double> alpha(static_cast<size_t>(scores.tokens));
  parallel_for_ranges(scores.tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
    std::vector<double> row(beta.size());
    for (int64_t t = begin; t < end; ++t) {
      const auto of_token = scores.values.begin() + t * scores.experts;
      std::transform(beta.begin(), beta.end(), of_token, row.begin(),
                     [](double price, double score) { return score - price; });
      alpha[static_cast<size_t>(t)] = rth_largest(row, top_k + 1);
    }
  });
  return alpha;
}

/// s - alpha, [E, T]: what each token offers beyond its price; infinite where nothing is known.
std::vector<double> surpluses(const CountedScores& scores, std::span<const double> alpha) {
  std::vector<double> by_expert(scores.values.size());
  parallel_for_ranges(scores.tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
    for (int64_t e = 0; e < scores.experts; ++e) {
      for (int64_t t = begin; t < end; ++t) {
        const double price = alpha[static_cast<size_t>(t)];
        by_expert[static_cast<size_t>(e * scores.tokens + t)] =
            std::isfinite(price)
                ? scores.values[static_cast<size_t>(t * scores.experts + e)] - price
                : -kInfinity;
      }
    }
  });
  return by_expert;
}

/// Calls body(expert, surpluses of the expert [T]) in parallel.
template <class Body>
void for_each_expert(const CountedScores& scores, std::vector<double>& by_expert, Body&& body) {
  parallel_for(scores.experts, [&](int64_t e) {
    body(static_cast<size_t>(e),
         std::span(by_expert.data() + e * scores.tokens, static_cast<size_t>(scores.tokens)));
  });
}

class Quantile final : public Balancer {
 public:
  Quantile(const QuantileConfig& config, const BalancerSetup& setup)
      : config_(config), prices_(static_cast<size_t>(setup.experts), 0.0) {}

  [[nodiscard]] BalancerTraits traits() const override { return {.selects = true}; }

  void route(const RouterInput& input, Selection& selection) override {
    std::vector<double> shift(prices_.size());
    std::transform(prices_.begin(), prices_.end(), shift.begin(), std::negate<>());
    input.choose(shift, selection);
    // With every expert chosen there is nothing to balance.
    const bool is_open = input.top_k < static_cast<int64_t>(prices_.size());
    if (!input.training || !is_open || !input.router.scores.has_memory()) return;
    const CountedScores scores(input);
    if (scores.tokens == 0) return;
    if (config_.pooling == Pooling::mean) {
      add_prices(scores, input.top_k);
    } else {
      add_to_histogram(scores, input.top_k);
    }
  }

  void reduce(Communicator& communicator) override {
    if (communicator.size() == 1) return;
    if (config_.pooling == Pooling::mean) {
      gathered_.reduce(communicator, prices_.size());
    } else {
      // A rank may have gathered nothing, but all must speak of the same numbers.
      histogram_.resize(histogram_size(), 0);
      communicator.sum(std::span<int64_t>(histogram_));
    }
  }

  void end_step(const LayerLoad& load, const Progress& /*progress*/) override {
    const std::vector<double> pooled =
        config_.pooling == Pooling::mean ? gathered_.take() : quantiles(load.top_k);
    histogram_.clear();
    if (pooled.empty()) return;
    const double rho = config_.momentum;
    for (size_t e = 0; e < prices_.size(); ++e) {
      prices_[e] = rho * prices_[e] + (1.0 - rho) * pooled[e];
    }
    const double centre =
        std::accumulate(prices_.begin(), prices_.end(), 0.0) / static_cast<double>(prices_.size());
    for (double& price : prices_) price -= centre;
  }

  void visit_state(StateVisitor& visitor) override {
    const auto experts = static_cast<int64_t>(prices_.size());
    visitor.array<double>("prices", prices_, std::span(&experts, 1));
    if (config_.pooling == Pooling::mean) {
      gathered_.visit_state(visitor);
    } else {
      visitor.list("histogram", histogram_);  // empty between steps
    }
  }

  void metrics(std::vector<std::pair<std::string, double>>& metrics) const override {
    const auto [least, greatest] = std::minmax_element(prices_.begin(), prices_.end());
    metrics.emplace_back("price_min", *least);
    metrics.emplace_back("price_max", *greatest);
  }

 private:
  [[nodiscard]] size_t histogram_size() const {
    return prices_.size() * static_cast<size_t>(config_.bins);
  }
  /// The bins cover biases, that is negative prices, from lowest() on.
  [[nodiscard]] double lowest() const {
    return -*std::max_element(prices_.begin(), prices_.end()) - 1.0;
  }
  [[nodiscard]] double bin_width() const {
    const auto [least, greatest] = std::minmax_element(prices_.begin(), prices_.end());
    return (*greatest - *least + 2.0) / static_cast<double>(config_.bins);
  }

  void add_prices(const CountedScores& scores, int64_t top_k) {
    const int64_t capacity = scores.tokens * top_k / scores.experts;  // less than T
    std::vector<double> beta = prices_;
    for (int64_t i = 0; i < config_.iterations; ++i) {
      std::vector<double> by_expert = surpluses(scores, price_tokens(scores, beta, top_k));
      for_each_expert(scores, by_expert, [&](size_t e, std::span<double> of_expert) {
        beta[e] = rth_largest(of_expert, capacity + 1);
      });
    }
    if (!std::all_of(beta.begin(), beta.end(), [](double x) { return std::isfinite(x); })) return;
    gathered_.add(beta, scores.tokens);
  }

  void add_to_histogram(const CountedScores& scores, int64_t top_k) {
    histogram_.resize(histogram_size(), 0);
    const double low = lowest();
    const double width = bin_width();
    std::vector<double> by_expert = surpluses(scores, price_tokens(scores, prices_, top_k));
    for_each_expert(scores, by_expert, [&](size_t e, std::span<const double> of_expert) {
      int64_t* counts = histogram_.data() + e * static_cast<size_t>(config_.bins);
      for (const double surplus : of_expert) {
        if (!std::isfinite(surplus)) continue;
        const double place = (-surplus - low) / width;
        const double last = static_cast<double>(config_.bins - 1);
        ++counts[static_cast<int64_t>(std::clamp(std::floor(place), 0.0, last))];
      }
    });
  }

  /// beta^, or nothing when nothing was gathered.
  [[nodiscard]] std::vector<double> quantiles(int64_t top_k) const {
    const auto bins = static_cast<size_t>(config_.bins);
    const double share = static_cast<double>(top_k) / static_cast<double>(prices_.size());
    std::vector<double> prices;
    for (size_t e = 0; e < prices_.size() && !histogram_.empty(); ++e) {
      const auto counts = std::span(histogram_).subspan(e * bins, bins);
      const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
      if (total == 0) return {};
      prices.push_back(-bias_at(counts, share * static_cast<double>(total)));
    }
    return prices;
  }

  /// The bias that `wanted` tokens, more than 0, are content with.
  [[nodiscard]] double bias_at(std::span<const int64_t> counts, double wanted) const {
    double below = 0.0;
    size_t bin = 0;
    while (bin + 1 < counts.size() && below + static_cast<double>(counts[bin]) < wanted) {
      below += static_cast<double>(counts[bin++]);
    }
    const double within = (wanted - below) / static_cast<double>(std::max<int64_t>(1, counts[bin]));
    return lowest() + bin_width() * (static_cast<double>(bin) + std::min(within, 1.0));
  }

  QuantileConfig config_;
  std::vector<double> prices_;      // beta [E], of mean 0
  TokenMean gathered_;              // of beta^
  std::vector<int64_t> histogram_;  // [E, bins]: tokens by the bias that they want; or empty
};

}  // namespace

const BalancerEntry quantile_balancer = {
    .name = "quantile",
    .doc = "prices at which each expert would have taken its share, once per step (Su 2026)",
    .make_config = make_balancer_config<QuantileConfig>,
    .make = make_balancer_method<Quantile, QuantileConfig>,
    .assumes_top_k = true,
};

}  // namespace sluice
