#include "balance/sparse_transport.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <limits>

#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr int64_t kTokenBlock = 256;

/// Projections of one column after another, with the memory of the one before.
class Projection {
 public:
  /// As project_sparse_simplex.
  double project(std::span<const double> v, int64_t kappa, std::span<double> result) {
    support_.assign(v.begin(), v.end());
    double theta = threshold();
    size_t ties = v.size();  // elements equal to the least kept one that are kept
    double least = -std::numeric_limits<double>::infinity();
    if (static_cast<int64_t>(support_.size()) > kappa) {
      // What is not in the support of the projection without a constraint is among the kappa
      // largest only where it would be 0.
      const auto kept = support_.begin() + kappa;
      std::nth_element(support_.begin(), kept - 1, support_.end(), std::greater<>());
      least = *(kept - 1);
      support_.erase(kept, support_.end());
      ties = static_cast<size_t>(std::ranges::count(support_, least));
      // The order in which the elements are added up decides the last bits: that of v.
      support_.clear();
      size_t left = ties;
      for (const double x : v) {
        if (x > least || (x == least && left > 0)) support_.push_back(x);
        if (x == least && left > 0) --left;
      }
      theta = threshold();
    }
    for (size_t i = 0; i < v.size(); ++i) {
      const bool is_kept = v[i] > least || (v[i] == least && ties > 0);
      if (v[i] == least && ties > 0) --ties;
      result[i] = is_kept ? std::max(0.0, v[i] - theta) : 0.0;
    }
    return theta;
  }

 private:
  /// The threshold of the projection of support_ on the simplex; leaves what is above it. Michelot
  /// 1986: the threshold of what is left, without what it puts at 0, until nothing is.
  double threshold() {
    while (true) {
      const double theta = (sum() - 1.0) / static_cast<double>(support_.size());
      scratch_.resize(support_.size());
      size_t above = 0;
      for (const double x : support_) {
        scratch_[above] = x;
        above += x > theta ? 1 : 0;
      }
      // An empty rest is rounding: of equal elements.
      if (above == support_.size() || above == 0) return theta;
      scratch_.resize(above);
      support_.swap(scratch_);
    }
  }

  /// In four parts, which a processor adds up side by side.
  [[nodiscard]] double sum() const {
    std::array<double, 4> parts = {};
    size_t i = 0;
    for (; i + 4 <= support_.size(); i += 4) {
      for (size_t j = 0; j < 4; ++j) parts[j] += support_[i + j];
    }
    for (; i < support_.size(); ++i) parts[0] += support_[i];
    return (parts[0] + parts[1]) + (parts[2] + parts[3]);
  }

  std::vector<double> support_;
  std::vector<double> scratch_;
};

}  // namespace

double project_sparse_simplex(std::span<const double> v, int64_t kappa, std::span<double> result) {
  return Projection().project(v, kappa, result);
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
      const auto rows =
          gradient.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin));
      std::ranges::fill(rows, 0.0);
      for (int64_t e = 0; e < problem_.experts; ++e) {
        const double* column = plan_.data() + index(e, begin);
        for (size_t i = 0; i < rows.size(); ++i) rows[i] += column[i];
      }
      for (double& row : rows) row -= problem_.row_mass;
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
    // Of this thread: a column needs a few times its size, and there are many.
    thread_local Projection projection;
    thread_local std::vector<double> v;
    v.resize(tokens);
    for (size_t t = 0; t < tokens; ++t) v[t] = (alpha[t] + affinity[t]) * scale;
    const std::span<double> column(plan_.data() + index(e, 0), tokens);
    level_[static_cast<size_t>(e)] = expert_mass_ * projection.project(v, problem_.kappa, column);
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
