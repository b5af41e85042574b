#include "balance/sparse_transport.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"

namespace sluice {
namespace {

std::vector<double> random_affinity(int64_t tokens, int64_t experts, uint64_t seed = 1) {
  const RandomKey key{.seed = seed, .purpose = RandomPurpose::test};
  std::vector<double> values;
  for (int64_t i = 0; i < tokens * experts; ++i) {
    values.push_back(normal(key, 0, static_cast<uint64_t>(i)) -
                     0.2 * static_cast<double>(i % experts));
  }
  return values;
}

double primal_value(const std::vector<double>& affinity, const std::vector<double>& plan,
                    double gamma) {
  double value = 0.0;
  for (size_t i = 0; i < plan.size(); ++i) {
    value += plan[i] * (0.5 * gamma * plan[i] - affinity[i]);
  }
  return value;
}

TEST(ProjectSparseSimplex, SolvesTheWorkedExamples) {
  std::vector<double> result(4);
  EXPECT_NEAR(project_sparse_simplex(std::vector<double>{.9, .7, .2, -.1}, 2, result), .3, 1e-15);
  const std::vector<double> two = {.6, .4, 0, 0};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(result[i], two[i], 1e-15);
  EXPECT_NEAR(project_sparse_simplex(std::vector<double>{.9, .7, .6, -.1}, 3, result), .4, 1e-15);
  const std::vector<double> three = {.5, .3, .2, 0};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(result[i], three[i], 1e-15);
}

TEST(ProjectSparseSimplex, KeepsTheLowerIndexOfEqualElements) {
  std::vector<double> result(5);
  (void)project_sparse_simplex(std::vector<double>(5, 0.25), 2, result);
  EXPECT_EQ(result, (std::vector<double>{.5, .5, 0, 0, 0}));
}

/// The definition: sort, keep kappa, lower them all until what is above 0 sums to 1.
std::vector<double> project_by_sorting(const std::vector<double>& v, size_t kappa) {
  std::vector<size_t> order(v.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) { return v[a] > v[b]; });
  order.resize(std::min(kappa, order.size()));
  double sum = 0.0;
  double theta = 0.0;
  for (size_t n = 0; n < order.size(); ++n) {
    const double lowered = (sum + v[order[n]] - 1.0) / static_cast<double>(n + 1);
    if (v[order[n]] <= lowered) break;
    sum += v[order[n]];
    theta = lowered;
  }
  std::vector<double> result(v.size(), 0.0);
  for (const size_t i : order) result[i] = std::max(0.0, v[i] - theta);
  return result;
}

TEST(ProjectSparseSimplex, AgreesWithSorting) {
  for (const double steps : {0.0, 4.0}) {
    for (const int64_t kappa : {1, 2, 7, 30, 60, 90}) {
      for (uint64_t seed = 1; seed <= 10; ++seed) {
        for (const double scale : {0.01, 0.2, 3.0}) {
          auto v = random_affinity(60, 1, seed);
          for (double& x : v) x = scale * (steps > 0.0 ? std::round(x * steps) / steps : x);
          std::vector<double> result(60);
          (void)project_sparse_simplex(v, kappa, result);
          const auto expected = project_by_sorting(v, static_cast<size_t>(kappa));
          for (size_t i = 0; i < 60; ++i) {
            EXPECT_NEAR(result[i], expected[i], 1e-14)
                << "kappa " << kappa << ", seed " << seed << ", scale " << scale << ", " << i;
          }
        }
      }
    }
  }
}

TEST(ProjectSparseSimplex, IsTheProjectionOnTheSimplexWithoutAConstraint) {
  // The condition for it: v - result is the threshold on the support, at most it elsewhere.
  const auto v = random_affinity(50, 1);
  std::vector<double> result(50);
  const double theta = project_sparse_simplex(v, 50, result);
  double sum = 0.0;
  for (size_t i = 0; i < 50; ++i) {
    sum += result[i];
    EXPECT_GE(result[i], 0.0);
    if (result[i] > 0.0) {
      EXPECT_NEAR(v[i] - result[i], theta, 1e-14);
    } else {
      EXPECT_LE(v[i], theta + 1e-14);
    }
  }
  EXPECT_NEAR(sum, 1.0, 1e-14);
}

TEST(SparseTransport, IsQuadraticTransportWithoutAConstraint) {
  const auto affinity = random_affinity(40, 5);
  const SparseTransportProblem problem = {
      .tokens = 40, .experts = 5, .kappa = 40, .gamma = 0.7, .row_mass = 1.0, .affinity = affinity};
  const auto solved = solve_sparse_transport(problem, {.max_iterations = 2000, .tolerance = 1e-6});
  EXPECT_LE(solved.largest_error, 1e-6);
  for (size_t t = 0; t < 40; ++t) {
    double sum = 0.0;
    for (size_t e = 0; e < 5; ++e) sum += solved.plan[t * 5 + e];
    EXPECT_NEAR(sum, 1.0, 1.1e-6);
  }
  for (size_t e = 0; e < 5; ++e) {
    double sum = 0.0;
    for (size_t t = 0; t < 40; ++t) sum += solved.plan[t * 5 + e];
    EXPECT_NEAR(sum, 8.0, 1e-12);
  }
  // Strong duality, to the errors of the rows times their prices.
  EXPECT_NEAR(solved.dual_value, primal_value(affinity, solved.plan, 0.7), 1e-4);
  for (size_t i = 0; i < solved.plan.size(); ++i) {
    const double expected = (solved.alpha[i / 5] + affinity[i]) / 0.7 - solved.level[i % 5];
    EXPECT_NEAR(solved.plan[i], std::max(0.0, expected), 1e-12);
  }
}

TEST(SparseTransport, GivesNoExpertMoreThanKappaTokensAndAllTheirMass) {
  for (const int64_t kappa : {1, 4, 6, 9}) {
    const auto affinity = random_affinity(12, 3);
    const SparseTransportProblem problem = {.tokens = 12,
                                            .experts = 3,
                                            .kappa = kappa,
                                            .gamma = 1.0,
                                            .row_mass = 1.0 / 12,
                                            .affinity = affinity};
    const auto solved = solve_sparse_transport(problem, {});
    for (size_t e = 0; e < 3; ++e) {
      int64_t tokens = 0;
      double sum = 0.0;
      for (size_t t = 0; t < 12; ++t) {
        EXPECT_GE(solved.plan[t * 3 + e], 0.0);
        tokens += solved.plan[t * 3 + e] > 0.0 ? 1 : 0;
        sum += solved.plan[t * 3 + e];
      }
      EXPECT_LE(tokens, kappa);
      EXPECT_NEAR(sum, 1.0 / 3, 1e-14);
    }
    if (kappa < 4) continue;
    // Tokens in turn, four to an expert: feasible, so at least as dear as the dual.
    std::vector<double> turns(36, 0.0);
    for (size_t t = 0; t < 12; ++t) turns[t * 3 + t % 3] = 1.0 / 12;
    EXPECT_LE(solved.dual_value, primal_value(affinity, turns, 1.0));
  }
}

TEST(SparseTransport, DoesNotDependOnTheNumberOfThreads) {
  const auto affinity = random_affinity(600, 8);
  const SparseTransportProblem problem = {.tokens = 600,
                                          .experts = 8,
                                          .kappa = 100,
                                          .gamma = 1.0,
                                          .row_mass = 1.0,
                                          .affinity = affinity};
  const int threads_before = num_threads();
  std::vector<std::vector<double>> plans;
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    plans.push_back(solve_sparse_transport(problem, {.max_iterations = 20}).plan);
  }
  set_num_threads(threads_before);
  EXPECT_EQ(plans[0], plans[1]);
  EXPECT_EQ(plans[0], plans[2]);
}

}  // namespace
}  // namespace sluice
