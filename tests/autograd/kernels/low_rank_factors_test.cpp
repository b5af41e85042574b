#include "autograd/kernels/low_rank_factors.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

namespace sluice {
namespace {

struct Factored {
  double rest;
  std::vector<double> product;  // left right
};

Factored factored(int64_t rows, int64_t columns, const std::vector<double>& x, int64_t rank) {
  std::vector<double> left(static_cast<size_t>(rows * rank));
  std::vector<double> right(static_cast<size_t>(rank * columns));
  Factored result{
      kernels::low_rank_factors(rows, columns, x.data(), rank, left.data(), right.data()),
      std::vector<double>(x.size(), 0.0)};
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t r = 0; r < rank; ++r) {
      for (int64_t j = 0; j < columns; ++j) {
        result.product[static_cast<size_t>(i * columns + j)] +=
            left[static_cast<size_t>(i * rank + r)] * right[static_cast<size_t>(r * columns + j)];
      }
    }
  }
  return result;
}

TEST(LowRankFactors, LeaveOutTheSmallSingularValues) {
  // Singular values 4, 3, 2.
  const std::vector<double> x = {0, 3, 0, 0, 0, 0, -4, 0, 2, 0, 0, 0};
  const Factored two = factored(3, 4, x, 2);
  EXPECT_NEAR(two.rest, 2.0, 1e-12);
  const std::vector<double> expected = {0, 3, 0, 0, 0, 0, -4, 0, 0, 0, 0, 0};
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(two.product[i], expected[i], 1e-12) << i;
}

TEST(LowRankFactors, AreAsFarAsTheySay) {
  for (const auto& [rows, columns] : {std::pair{7, 12}, {12, 7}, {1, 5}, {40, 33}}) {
    std::vector<double> x(static_cast<size_t>(rows * columns));
    for (size_t i = 0; i < x.size(); ++i) x[i] = std::sin(1.7 * static_cast<double>(i * i % 101));
    const int64_t full = std::min(rows, columns);
    double before = 1e9;
    for (int64_t rank = 0; rank <= full; rank += std::max<int64_t>(1, full / 3)) {
      const Factored result = factored(rows, columns, x, rank);
      double distance = 0.0;
      for (size_t i = 0; i < x.size(); ++i) distance += std::pow(x[i] - result.product[i], 2);
      EXPECT_NEAR(std::sqrt(distance), result.rest, 1e-10) << rows << " " << columns << " " << rank;
      EXPECT_LT(result.rest, before);
      before = result.rest;
    }
    EXPECT_NEAR(factored(rows, columns, x, full).rest, 0.0, 1e-12);
  }
}

}  // namespace
}  // namespace sluice
