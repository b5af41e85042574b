#include "balance/transport.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"

namespace sluice {
namespace {

constexpr double kPrinted = 6e-7;  // the page prints six digits
constexpr SinkhornOptions kExact = {.tolerance = 1e-13, .max_iterations = 10000};

std::vector<double> random_values(int64_t count, double spread, uint64_t seed = 1) {
  const RandomKey key{.seed = seed, .purpose = RandomPurpose::test};
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(spread * normal(key, 0, static_cast<uint64_t>(i)));
  }
  return values;
}

/// Row t: softmax over e of affinity / xi + potential, times `row_sum`.
std::vector<double> plan_of(const std::vector<double>& affinity,
                            const std::vector<double>& potential, double xi, double row_sum) {
  std::vector<double> plan(affinity.size());
  const size_t experts = potential.size();
  for (size_t first = 0; first < plan.size(); first += experts) {
    double greatest = -1e300;
    for (size_t e = 0; e < experts; ++e) {
      plan[first + e] = affinity[first + e] / xi + potential[e];
      greatest = std::max(greatest, plan[first + e]);
    }
    double sum = 0.0;
    for (size_t e = 0; e < experts; ++e) {
      sum += plan[first + e] = std::exp(plan[first + e] - greatest);
    }
    for (size_t e = 0; e < experts; ++e) plan[first + e] *= row_sum / sum;
  }
  return plan;
}

void expect_column_sums(const std::vector<double>& plan, size_t experts, double expected,
                        double tolerance) {
  for (size_t e = 0; e < experts; ++e) {
    double sum = 0.0;
    for (size_t i = e; i < plan.size(); i += experts) sum += plan[i];
    EXPECT_NEAR(sum, expected, tolerance) << "expert " << e;
  }
}

TEST(SinkhornShift, SolvesTheWorkedExample) {
  const std::vector<double> z = {2.0, 1.0, 1.5, 1.0};
  const auto plan = plan_of(z, sinkhorn_shift(z, 2, 2, {1e-9, 100}), 1.0, 0.5);
  const std::vector<double> expected = {.281088, .218912, .218912, .281088};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(plan[i], expected[i], kPrinted);
}

TEST(SinkhornShift, MakesTheColumnSumsUniform) {
  const auto z = random_values(200 * 8, 1.5);
  const auto plan = plan_of(z, sinkhorn_shift(z, 200, 8, {1e-4, 100}), 1.0, 1.0 / 200);
  expect_column_sums(plan, 8, 1.0 / 8, 1e-3);
}

TEST(SinkhornShift, IgnoresAConstantAddedToARowAndAnswersOneAddedToAColumn) {
  const auto z = random_values(60 * 4, 1.0);
  const auto shift = sinkhorn_shift(z, 60, 4, kExact);
  auto moved = z;
  for (size_t e = 0; e < 4; ++e) moved[7 * 4 + e] += 1.25;
  for (size_t t = 0; t < 60; ++t) moved[t * 4 + 2] -= 0.75;
  const auto answer = sinkhorn_shift(moved, 60, 4, kExact);
  // d1 is fixed up to a common factor; the floor of the scaling is worth about 1e-8.
  const double common = answer[0] - shift[0];
  for (size_t e = 0; e < 4; ++e) {
    EXPECT_NEAR(answer[e] - shift[e], common + (e == 2 ? 0.75 : 0.0), 1e-4);
  }
}

TEST(SinkhornShift, LeavesAnExpertThatNobodyWantsAloneAndStaysFinite) {
  auto z = random_values(32 * 4, 1.0);
  for (size_t t = 0; t < 32; ++t) z[t * 4 + 1] = -200.0;
  const auto shift = sinkhorn_shift(z, 32, 4, {1e-4, 100});
  for (const double x : shift) EXPECT_TRUE(std::isfinite(x));
  EXPECT_LT(-200.0 + shift[1], -50.0);
}

TEST(SinkhornShift, EndsOnNan) {
  std::vector<double> z(8, 0.0);
  z[3] = std::nan("");
  EXPECT_EQ(sinkhorn_shift(z, 4, 2, {1e-4, 100}).size(), 2U);
}

TEST(EntropicPotentials, SolveTheWorkedExamples) {
  const std::vector<double> two = {.95, .05, .90, .10};
  const auto plan = plan_of(two, entropic_potentials(two, 2, 2, 0.5, kExact), 0.5, 1.0);
  const std::vector<double> expected = {.524979, .475021, .475021, .524979};
  for (size_t i = 0; i < 4; ++i) EXPECT_NEAR(plan[i], expected[i], kPrinted);
  const double r = std::exp((.95 + .10 - .05 - .90) / 0.5);
  EXPECT_NEAR(plan[0], std::sqrt(r) / (1.0 + std::sqrt(r)), 1e-12);

  const std::vector<double> three = {2.0, 1.0, 0.0, 1.5, 1.0, 0.0, 1.2, .8, .6};
  const auto wide = plan_of(three, entropic_potentials(three, 3, 3, 0.5, kExact), 0.5, 1.0);
  const std::vector<double> printed = {.551460, .297566, .150973, .311433, .456803,
                                       .231764, .137107, .245630, .617263};
  for (size_t i = 0; i < 9; ++i) EXPECT_NEAR(wide[i], printed[i], kPrinted);
}

TEST(EntropicPotentials, ReachTheMarginalsToTheTolerance) {
  const auto c = random_values(300 * 8, 1.0);
  for (const double xi : {1.0, 0.5}) {
    const auto plan = plan_of(c, entropic_potentials(c, 300, 8, xi, {1e-4, 1000}), xi, 1.0);
    expect_column_sums(plan, 8, 300.0 / 8, 8e-4 * 300.0 / 8);
  }
}

TEST(EntropicPotentials, StayFiniteForASmallRegularisationAndAnExpertThatNobodyWants) {
  auto c = random_values(64 * 4, 1.0);
  for (size_t t = 0; t < 64; ++t) c[t * 4 + 3] = -200.0;
  for (const double xi : {0.5, 0.005}) {
    const auto potentials = entropic_potentials(c, 64, 4, xi, {1e-4, 100});
    for (const double x : potentials) EXPECT_TRUE(std::isfinite(x));
  }
}

TEST(EntropicPotentials, DoNotDependOnTheNumberOfThreads) {
  const auto c = random_values(1000 * 8, 1.0);
  const int threads_before = num_threads();
  std::vector<std::vector<double>> results;
  for (const int threads : {1, 2, 3}) {
    set_num_threads(threads);
    results.push_back(entropic_potentials(c, 1000, 8, 0.5, {1e-4, 50}));
    results.push_back(sinkhorn_shift(c, 1000, 8, {1e-4, 50}));
  }
  set_num_threads(threads_before);
  for (size_t i = 2; i < results.size(); ++i) EXPECT_EQ(results[i], results[i % 2]);
}

}  // namespace
}  // namespace sluice
