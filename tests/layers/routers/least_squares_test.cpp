#include "layers/routers/least_squares.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/support/rng.h"

namespace sluice {
namespace {

std::vector<double> random_numbers(int64_t count, uint64_t sample) {
  std::vector<double> values;
  for (int64_t i = 0; i < count; ++i) {
    values.push_back(normal({.seed = 1}, sample, static_cast<uint64_t>(i)));
  }
  return values;
}

/// a [m, n] x [n, p] - b.
std::vector<double> residual(const std::vector<double>& a, const std::vector<double>& x,
                             const std::vector<double>& b, int64_t m, int64_t n, int64_t p) {
  std::vector<double> result(b.size());
  for (int64_t i = 0; i < m * p; ++i) {
    result[static_cast<size_t>(i)] = -b[static_cast<size_t>(i)];
    for (int64_t k = 0; k < n; ++k) {
      result[static_cast<size_t>(i)] +=
          a[static_cast<size_t>(i / p * n + k)] * x[static_cast<size_t>(k * p + i % p)];
    }
  }
  return result;
}

/// Largest |element| of a^T r: a [m, n], r [m, p].
double largest_correlation(const std::vector<double>& a, const std::vector<double>& r, int64_t m,
                           int64_t n, int64_t p) {
  double largest = 0.0;
  for (int64_t j = 0; j < n * p; ++j) {
    double sum = 0.0;
    for (int64_t i = 0; i < m; ++i) {
      sum += a[static_cast<size_t>(i * n + j / p)] * r[static_cast<size_t>(i * p + j % p)];
    }
    largest = std::max(largest, std::abs(sum));
  }
  return largest;
}

TEST(LeastSquares, SolveThePagesExample) {
  // [xi; 1] of four domains and the experts 0, 0, 1, 1.
  const std::vector<double> x =
      least_squares(std::vector<double>{0, 0, 1, .2, 0, 1, 2, 2, 1, 2.2, 2, 1}, 4, 3,
                    std::vector<double>{1, 0, 1, 0, 0, 1, 0, 1}, 2);
  const std::vector<double> expected = {0, 0, -.5, .5, 1, 0};
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], expected[i], 1e-12) << i;
}

TEST(LeastSquares, LeaveAResidualOrthogonalToTheColumns) {
  const auto a = random_numbers(9 * 4, 0);
  const auto b = random_numbers(9 * 3, 1);
  const auto r = residual(a, least_squares(a, 9, 4, b, 3), b, 9, 4, 3);
  EXPECT_LT(largest_correlation(a, r, 9, 4, 3), 1e-12);
  EXPECT_GT(std::abs(r[0]), 1e-3);
}

TEST(LeastSquares, OfFewerRowsThanColumnsAreExactAndOfSmallestNorm) {
  const auto a = random_numbers(3 * 6, 0);
  const auto b = random_numbers(3 * 2, 1);
  const auto x = least_squares(a, 3, 6, b, 2);
  for (const double value : residual(a, x, b, 3, 6, 2)) EXPECT_NEAR(value, 0.0, 1e-12);
  // The smallest solution is a combination of the rows of a: x = a^T y for some y.
  std::vector<double> transposed(a.size());
  for (size_t i = 0; i < a.size(); ++i) transposed[i % 6 * 3 + i / 6] = a[i];
  const auto y = least_squares(transposed, 6, 3, x, 2);
  for (const double value : residual(transposed, y, x, 6, 3, 2)) EXPECT_NEAR(value, 0.0, 1e-12);
}

TEST(LeastSquares, SplitWhatEqualColumnsShare) {
  const std::vector<double> x =
      least_squares(std::vector<double>{1, 1, 2, 2, 3, 3}, 3, 2, std::vector<double>{2, 4, 6}, 1);
  EXPECT_NEAR(x[0], 1.0, 1e-12);
  EXPECT_NEAR(x[1], 1.0, 1e-12);
}

TEST(LeastSquares, OfNothingButZerosAreZero) {
  EXPECT_EQ(least_squares(std::vector<double>(6, 0.0), 3, 2, std::vector<double>{1, 2, 3}, 1),
            (std::vector<double>{0.0, 0.0}));
}

}  // namespace
}  // namespace sluice
