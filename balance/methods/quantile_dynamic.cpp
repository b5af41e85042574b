// Quantile balancing with a varying number of experts per token: every expert has a threshold that
// its share of the tokens is past.
//
//   route: token t goes to expert i iff z_ti > beta_i; the weight is s_ti
//   beta^_i = (C + 1)-th largest over t of z_ti,   C = floor(T k / E)
//   step:  beta <- lambda beta + (1 - lambda) beta^
//   at first beta = sigma Phi^-1(1 - k / E): k experts per token where logits are N(0, sigma^2)
//
// J. Su 2026, in his series on Mixture-of-Experts (see quantile); lambda = 0.9. With a threshold in
// the place of a ranking hard tokens take more experts and easy ones fewer, k on average, and an
// expert's load is right whatever the others do. A step routes with the thresholds of the step
// before, training and evaluation alike, so a token's route depends on no other token: the causal
// relative of expert_choice. Thresholds follow the logits over some 1 / (1 - lambda) steps; while
// logits move fast, early in a run, a token may take many more experts than k or fewer, so runs of
// few steps want a smaller lambda.
//
// Ours [R]: thresholds are on the logits z, for which the first value is given (with sigmoid scores
// the choice is the same as on the scores); sigma, unless given, is that of a linear router at its
// initial values; where k = E, also for a part of the run, every expert is taken and nothing learned;
// the step's beta^ is the mean over its micro-batches and ranks, weighed by their counted tokens;
// where E does not divide T k, C is rounded down.
//
// A token that is past no threshold passes by: only shared experts see it. The source sets no limit
// at the other end; `max_experts` does, best z - beta first [R], and an expert that many tokens want
// beside many others then gets less than its share. Tokens without a loss set no threshold, nor does
// a micro-batch in which one would not be finite. The method sets the weights itself: `weights` and
// `scale` of the router do not apply; routers with groups, thresholds or null experts are refused.

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "autograd/ops/top_k.h"
#include "autograd/support/error.h"
#include "autograd/support/normal_quantile.h"
#include "autograd/support/parallel.h"
#include "balance/batch.h"
#include "balance/method.h"
#include "balance/token_mean.h"

namespace sluice {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct QuantileDynamicConfig final : Configurable {
  double momentum = 0.9;
  std::optional<double> logit_std;
  std::optional<int64_t> max_experts;

  void fields(FieldVisitor& v) override {
    v.number({"momentum",
              "share lambda of the old thresholds that a step keeps; less in runs of few steps"},
             momentum, {.min = 0.0, .max = 1.0});
    v.optional_number({"logit_std",
                       "standard deviation sigma of the router's logits before training, which "
                       "gives the first thresholds; auto: of a linear router"},
                      logit_std, {.min = 0.0}, "auto");
    v.optional_integer({"max_experts",
                        "most experts that a token may use, which bounds a step's memory before "
                        "the thresholds have settled; auto: num_experts"},
                       max_experts, {.min = 1}, "auto");
  }
};

/// beta before the first step.
double first_threshold(const QuantileDynamicConfig& config, const BalancerSetup& setup) {
  const auto experts = static_cast<double>(setup.experts);
  // Where a schedule begins with all experts the quantile is at minus infinity.
  const double taken = std::min(static_cast<double>(setup.top_k), experts - 0.5);
  return config.logit_std.value_or(setup.initial_logit_std) *
         normal_quantile(1.0 - taken / experts);
}

class QuantileDynamic final : public Balancer {
 public:
  QuantileDynamic(const QuantileDynamicConfig& config, const BalancerSetup& setup)
      : momentum_(config.momentum),
        max_experts_(std::min(config.max_experts.value_or(setup.experts), setup.experts)),
        thresholds_(static_cast<size_t>(setup.experts), first_threshold(config, setup)) {
    SLUICE_CHECK(ConfigError, max_experts_ >= setup.top_k,
                 "balance: quantile_dynamic.max_experts: found {}, allowed auto or at least {} "
                 "(model.experts.top_k, the mean)",
                 max_experts_, setup.top_k);
  }

  [[nodiscard]] BalancerTraits traits() const override {
    return {.selects = true, .varies_k = true};
  }

  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query,
                                             const ActiveExperts& /*of_router*/) const override {
    const auto mean = static_cast<double>(query.top_k);
    if (query.top_k == query.num_experts) return ActiveExperts::exactly(mean);
    return ActiveExperts::at_initial_values(mean, 0.0, static_cast<double>(max_experts_));
  }

  void route(const RouterInput& input, Selection& selection) override {
    const auto experts = static_cast<int64_t>(thresholds_.size());
    if (input.top_k == experts) {
      input.choose({}, selection);
      return;
    }
    ArenaScope scratch(thread_arena());
    const std::span<double> surplus =
        shifted_rows(scratch, input.router.logits, negative_thresholds());
    if (max_experts_ < experts) leave_best(surplus);
    select_positive(surplus, input.layout.tokens(), experts, input.top_k, selection);
    if (input.training) learn(input);
  }

  [[nodiscard]] Tensor combine_weights(Tape& tape, const RouterInput& input,
                                       const Selection& selection) override {
    return gather_last(tape, input.router.scores, expert_index(tape.pool(), selection));
  }

  void reduce(Communicator& communicator) override {
    if (communicator.size() > 1) gathered_.reduce(communicator, thresholds_.size());
  }

  void end_step(const LayerLoad& /*load*/, const Progress& /*progress*/) override {
    const std::vector<double> pooled = gathered_.take();
    for (size_t e = 0; e < pooled.size(); ++e) {
      thresholds_[e] = momentum_ * thresholds_[e] + (1.0 - momentum_) * pooled[e];
    }
  }

  void visit_state(StateVisitor& visitor) override {
    const auto experts = static_cast<int64_t>(thresholds_.size());
    visitor.array<double>("thresholds", thresholds_, std::span(&experts, 1));
    gathered_.visit_state(visitor);
  }

  void metrics(std::vector<std::pair<std::string, double>>& metrics) const override {
    const auto [least, greatest] = std::minmax_element(thresholds_.begin(), thresholds_.end());
    metrics.emplace_back("threshold_min", *least);
    metrics.emplace_back("threshold_max", *greatest);
  }

 private:
  [[nodiscard]] std::vector<double> negative_thresholds() const {
    std::vector<double> shift(thresholds_.size());
    std::ranges::transform(thresholds_, shift.begin(), std::negate<>());
    return shift;
  }

  /// Leaves of every token's positive surpluses [N, E] the max_experts best, ties to the lower
  /// index.
  void leave_best(std::span<double> surplus) const {
    const size_t experts = thresholds_.size();
    std::vector<size_t> past;
    for (size_t row = 0; row < surplus.size(); row += experts) {
      past.clear();
      for (size_t i = row; i < row + experts; ++i) {
        if (surplus[i] > 0.0) past.push_back(i);
      }
      if (std::ssize(past) <= max_experts_) continue;
      std::ranges::stable_sort(past, [&](size_t a, size_t b) { return surplus[a] > surplus[b]; });
      for (auto i = past.begin() + max_experts_; i != past.end(); ++i) surplus[*i] = 0.0;
    }
  }

  /// Adds beta^ of a micro-batch.
  void learn(const RouterInput& input) {
    const std::vector<int64_t> tokens = counted_tokens(input.layout);
    if (tokens.empty()) return;
    const std::vector<double> rows = rows_of(input.router.logits, tokens);
    const auto experts = static_cast<int64_t>(thresholds_.size());
    const int64_t capacity = std::ssize(tokens) * input.top_k / experts;  // less than T
    std::vector<double> quantile(thresholds_.size());
    parallel_for(experts, [&](int64_t e) {
      // A NaN has no place in an order: last.
      std::vector<double> column(tokens.size());
      for (size_t t = 0; t < column.size(); ++t) {
        const double z = rows[t * thresholds_.size() + static_cast<size_t>(e)];
        column[t] = std::isnan(z) ? -kInfinity : z;
      }
      const auto next = column.begin() + capacity;
      std::nth_element(column.begin(), next, column.end(), std::greater<>());
      quantile[static_cast<size_t>(e)] = *next;
    });
    if (!std::ranges::all_of(quantile, [](double x) { return std::isfinite(x); })) return;
    gathered_.add(quantile, std::ssize(tokens));
  }

  double momentum_;
  int64_t max_experts_;
  std::vector<double> thresholds_;  // beta [E]
  TokenMean gathered_;              // of beta^
};

}  // namespace

const BalancerEntry quantile_dynamic_balancer = {
    .name = "quantile_dynamic",
    .doc = "thresholds that each expert's share of the tokens is past, k on average (Su 2026)",
    .make_config = make_balancer_config<QuantileDynamicConfig>,
    .make = make_balancer_method<QuantileDynamic, QuantileDynamicConfig>,
    .passes_over_router = true,
};

}  // namespace sluice
