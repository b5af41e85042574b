#include "balance/lbfgs.h"

#include <gtest/gtest.h>

#include <cmath>

namespace sluice {
namespace {

TEST(Minimise, FindsTheMinimumOfAQuadratic) {
  // sum of i (x_i - i)^2 / 2
  const auto f = [](std::span<const double> x, std::span<double> gradient) {
    double value = 0.0;
    for (size_t i = 0; i < x.size(); ++i) {
      const double weight = static_cast<double>(i + 1);
      gradient[i] = weight * (x[i] - weight);
      value += 0.5 * gradient[i] * (x[i] - weight);
    }
    return value;
  };
  std::vector<double> x(30, 0.0);
  const LbfgsResult result = minimise(f, x, {.tolerance = 1e-9});
  EXPECT_LT(result.iterations, 60);
  EXPECT_LE(result.largest_gradient, 1e-9);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], static_cast<double>(i + 1), 1e-8);
}

TEST(Minimise, FollowsACurvedValley) {
  // Rosenbrock's function, from its usual start.
  const auto f = [](std::span<const double> x, std::span<double> gradient) {
    const double a = 1.0 - x[0];
    const double b = x[1] - x[0] * x[0];
    gradient[0] = -2.0 * a - 400.0 * x[0] * b;
    gradient[1] = 200.0 * b;
    return a * a + 100.0 * b * b;
  };
  std::vector<double> x = {-1.2, 1.0};
  (void)minimise(f, x, {.tolerance = 1e-8});
  EXPECT_NEAR(x[0], 1.0, 1e-6);
  EXPECT_NEAR(x[1], 1.0, 1e-6);
}

TEST(Minimise, StopsWhereTheGradientJumps) {
  const auto f = [](std::span<const double> x, std::span<double> gradient) {
    gradient[0] = x[0] > 0.25 ? 1.0 : -1.0;
    return std::abs(x[0] - 0.25);
  };
  std::vector<double> x = {3.0};
  const LbfgsResult result = minimise(f, x, {.tolerance = 1e-8});
  EXPECT_NEAR(result.value, 0.0, 1e-6);
}

TEST(Minimise, TakesNoStepAtTheMinimumAndNoneWhenNotAllowed) {
  const auto f = [](std::span<const double> x, std::span<double> gradient) {
    gradient[0] = 2.0 * x[0];
    return x[0] * x[0];
  };
  std::vector<double> x = {0.0};
  EXPECT_EQ(minimise(f, x, {}).iterations, 0);
  x = {5.0};
  EXPECT_EQ(minimise(f, x, {.max_iterations = 0}).value, 25.0);
}

TEST(Minimise, EndsOnNan) {
  const auto f = [](std::span<const double>, std::span<double> gradient) {
    gradient[0] = std::nan("");
    return std::nan("");
  };
  std::vector<double> x = {1.0};
  (void)minimise(f, x, {});
  EXPECT_EQ(x[0], 1.0);
}

}  // namespace
}  // namespace sluice
