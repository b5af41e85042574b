#include "balance/sparse_transport.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 256;

}  // namespace

double project_sparse_simplex(std::span<const double> v, int64_t kappa, std::span<double> result) {
  std::vector<int64_t> order(v.size());
  std::iota(order.begin(), order.end(), int64_t{0});
  const auto larger = [&](int64_t a, int64_t b) {
    const double va = v[static_cast<size_t>(a)];
    const double vb = v[static_cast<size_t>(b)];
    return va != vb ? va > vb : a < b;
  };
  const auto kept = order.begin() + std::min(kappa, static_cast<int64_t>(order.size()));
  std::nth_element(order.begin(), kept, order.end(), larger);
  // Michelot 1986: the threshold of what is left, without what it puts at 0, until nothing is.
  auto last = kept;
  double theta = 0.0;
  while (true) {
    double sum = 0.0;
    for (auto i = order.begin(); i != last; ++i) sum += v[static_cast<size_t>(*i)];
    theta = (sum - 1.0) / static_cast<double>(last - order.begin());
    const auto above = std::partition(order.begin(), last,
                                      [&](int64_t i) { return v[static_cast<size_t>(i)] > theta; });
    // An empty rest is rounding: of equal elements.
    if (above == last || above == order.begin()) break;
    last = above;
  }
  std::ranges::fill(result, 0.0);
  for (auto i = order.begin(); i != last; ++i) {
    result[static_cast<size_t>(*i)] = std::max(0.0, v[static_cast<size_t>(*i)] - theta);
  }
  return theta;
}

namespace {

class SemiDual {
 public:
  explicit SemiDual(const SparseTransportProblem& problem)
      : problem_(problem),
        expert_mass_(problem.row_mass * static_cast<double>(problem.tokens) /
                     static_cast<double>(problem.experts)),
        by_expert_(problem.affinity.size()),
        plan_(problem.affinity.size()),
        value_(static_cast<size_t>(problem.experts)),
        level_(static_cast<size_t>(problem.experts)) {
    for (int64_t t = 0; t < problem.tokens; ++t) {
      for (int64_t e = 0; e < problem.experts; ++e) {
        by_expert_[index(e, t)] = problem.affinity[static_cast<size_t>(t * problem.experts + e)];
      }
    }
  }

  /// Minus the semi-dual, and its gradient Pi 1 - a. Fills the plan.
  double evaluate(std::span<const double> alpha, std::span<double> gradient) {
    parallel_for(problem_.experts, [&](int64_t e) { solve_column(e, alpha); });
    double value = 0.0;
    for (const double of_expert : value_) value += of_expert;
    for (const double price : alpha) value -= problem_.row_mass * price;
    parallel_for_ranges(problem_.tokens, kTokenBlock, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        double sum = 0.0;
        for (int64_t e = 0; e < problem_.experts; ++e) sum += plan_[index(e, t)];
        gradient[static_cast<size_t>(t)] = sum - problem_.row_mass;
      }
    });
    return value;
  }

  /// Of the last evaluation.
  [[nodiscard]] std::vector<double> plan_by_token() const {
    std::vector<double> plan(plan_.size());
    for (int64_t e = 0; e < problem_.experts; ++e) {
      for (int64_t t = 0; t < problem_.tokens; ++t) {
        plan[static_cast<size_t>(t * problem_.experts + e)] = plan_[index(e, t)];
      }
    }
    return plan;
  }
  [[nodiscard]] const std::vector<double>& level() const { return level_; }

 private:
  [[nodiscard]] size_t index(int64_t e, int64_t t) const {
    return static_cast<size_t>(e * problem_.tokens + t);
  }

  /// Pi_e, b_e m_e and the level of one expert.
  void solve_column(int64_t e, std::span<const double> alpha) {
    const auto tokens = static_cast<size_t>(problem_.tokens);
    const double scale = 1.0 / (expert_mass_ * problem_.gamma);
    const double* affinity = by_expert_.data() + index(e, 0);
    std::vector<double> v(tokens);
    for (size_t t = 0; t < tokens; ++t) v[t] = (alpha[t] + affinity[t]) * scale;
    const std::span<double> column(plan_.data() + index(e, 0), tokens);
    level_[static_cast<size_t>(e)] =
        expert_mass_ * project_sparse_simplex(v, problem_.kappa, column);
    double value = 0.0;
    for (size_t t = 0; t < tokens; ++t) {
      if (column[t] == 0.0) continue;
      column[t] *= expert_mass_;
      value += column[t] * (alpha[t] + affinity[t] - 0.5 * problem_.gamma * column[t]);
    }
    value_[static_cast<size_t>(e)] = value;
  }

  const SparseTransportProblem& problem_;
  double expert_mass_;             // b
  std::vector<double> by_expert_;  // A [E, T]
  std::vector<double> plan_;       // Pi [E, T]
  std::vector<double> value_;      // b m [E]
  std::vector<double> level_;      // [E]
};

}  // namespace

SparseTransportPlan solve_sparse_transport(const SparseTransportProblem& problem,
                                           const LbfgsOptions& options) {
  SemiDual dual(problem);
  std::vector<double> alpha(static_cast<size_t>(problem.tokens), 0.0);
  LbfgsOptions scaled = options;
  scaled.tolerance *= problem.row_mass;
  const LbfgsResult result =
      minimise([&](std::span<const double> x,
                   std::span<double> gradient) { return dual.evaluate(x, gradient); },
               alpha, scaled);
  // The last evaluation may have been of a point that was not taken.
  std::vector<double> gradient(alpha.size());
  const double value = dual.evaluate(alpha, gradient);
  return {.plan = dual.plan_by_token(),
          .alpha = std::move(alpha),
          .level = dual.level(),
          .dual_value = -value,
          .largest_error = result.largest_gradient};
}

}  // namespace sluice
