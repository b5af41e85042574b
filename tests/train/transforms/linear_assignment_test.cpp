#include "train/transforms/linear_assignment.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "autograd/support/error.h"
#include "autograd/support/rng.h"

namespace sluice {
namespace {

double profit_of(const std::vector<double>& profit, const std::vector<int32_t>& columns) {
  const size_t n = columns.size();
  double sum = 0.0;
  for (size_t i = 0; i < n; ++i) sum += profit[i * n + static_cast<size_t>(columns[i])];
  return sum;
}

/// Over all permutations.
double best_profit(const std::vector<double>& profit, size_t n) {
  std::vector<int32_t> columns(n);
  std::iota(columns.begin(), columns.end(), 0);
  double best = -std::numeric_limits<double>::infinity();
  do {
    best = std::max(best, profit_of(profit, columns));
  } while (std::ranges::next_permutation(columns).found);
  return best;
}

TEST(LinearAssignment, IsTheBestOfAllPermutations) {
  for (size_t n = 1; n <= 7; ++n) {
    for (uint64_t sample = 0; sample < 20; ++sample) {
      std::vector<double> profit;
      for (size_t i = 0; i < n * n; ++i) {
        // A few whole numbers: many ties.
        const double u = uniform({.seed = n}, sample, i);
        profit.push_back(sample % 2 == 0 ? u : static_cast<double>(static_cast<int>(5 * u)) - 2.0);
      }
      const std::vector<int32_t> columns = assign_rows(profit, static_cast<int64_t>(n));
      std::vector<int32_t> sorted = columns;
      std::ranges::sort(sorted);
      for (size_t i = 0; i < n; ++i) ASSERT_EQ(sorted[i], static_cast<int32_t>(i));
      EXPECT_NEAR(profit_of(profit, columns), best_profit(profit, n), 1e-12) << n << " rows";
    }
  }
}

TEST(LinearAssignment, FindsAPermutationThatIsPlanted) {
  constexpr size_t kRows = 40;
  std::vector<double> profit(kRows * kRows);
  for (size_t i = 0; i < profit.size(); ++i) profit[i] = uniform({.seed = 5}, 0, i);
  for (size_t i = 0; i < kRows; ++i) profit[i * kRows + (7 * i + 3) % kRows] += 1.0;
  const std::vector<int32_t> columns = assign_rows(profit, kRows);
  for (size_t i = 0; i < kRows; ++i) EXPECT_EQ(columns[i], (7 * i + 3) % kRows);
}

TEST(LinearAssignment, RefusesWhatIsNoNumber) {
  const std::vector<double> profit = {1.0, std::numeric_limits<double>::quiet_NaN(), 0.0, 1.0};
  EXPECT_THROW((void)assign_rows(profit, 2), NumericError);
}

}  // namespace
}  // namespace sluice
