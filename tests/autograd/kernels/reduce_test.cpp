#include "autograd/kernels/reduce.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/reduce.h"
#include "autograd/kernels/rows.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;
using testing::kLengths;

// One rounding per term, each of a partial sum of a few units (the terms have both signs).
double sum_coefficient(int64_t terms) { return 2.0 + static_cast<double>(terms); }

template <class T>
class Reduce : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Reduce, FloatTypes);

TYPED_TEST(Reduce, SumsEverythingInDouble) {
  using T = TypeParam;
  for (const int64_t n : kLengths) {
    const auto x = Array<T>::uniform(n, 1);
    // The reference's own error: it adds in one chain.
    const double tolerance =
        1e-16 * static_cast<double>(n) * (1.0 + reference::sum_of_squares(n, x.data()));
    EXPECT_NEAR(sum(n, x.data()), reference::sum(n, x.data()), tolerance);
    EXPECT_NEAR(sum_of_squares(n, x.data()), reference::sum_of_squares(n, x.data()), tolerance);
  }
}

TYPED_TEST(Reduce, SquaresOfManyArraysAreThoseOfEachOneBitForBit) {
  using T = TypeParam;
  // Blocks that are summed side by side belong to one array, to several, or are cut short.
  constexpr int64_t kBlock = kElementBlock;
  std::vector<Array<T>> arrays;
  std::vector<std::span<const T>> spans;
  for (const int64_t n :
       {int64_t{5}, 3 * kBlock, kBlock, int64_t{0}, 9 * kBlock + 17, 4 * kBlock}) {
    arrays.push_back(Array<T>::uniform(n, 1 + arrays.size()));
  }
  for (const Array<T>& array : arrays) {
    spans.emplace_back(array.data(), static_cast<size_t>(array.size()));
  }
  std::vector<double> sums(spans.size());
  const int before = num_threads();
  for (const int threads : {1, 3}) {
    set_num_threads(threads);
    sums_of_squares<T>(spans, sums);
    for (size_t i = 0; i < spans.size(); ++i) {
      EXPECT_EQ(sums[i], sum_of_squares(arrays[i].size(), arrays[i].data())) << i;
      double by_block = 0.0;
      for (int64_t begin = 0; begin < arrays[i].size(); begin += kBlock) {
        by_block +=
            sum_of_squares(std::min(kBlock, arrays[i].size() - begin), arrays[i].data() + begin);
      }
      EXPECT_EQ(sums[i], by_block) << i;
    }
  }
  set_num_threads(before);
}

TEST(ReduceInSingle, DoesNotLoseASmallTermBesideALargeOne) {
  const auto x = Array<float>::of({1e8F, 1.0F, -1e8F});
  EXPECT_EQ(sum(3, x.data()), 1.0);
}

TEST(ReduceInSingle, SquaresNeitherOverflowNorVanish) {
  const auto x = Array<float>::of({1e30F, 1e-30F});
  EXPECT_NEAR(sum_of_squares(1, x.data()), 1e60, 1e53);
  EXPECT_NEAR(sum_of_squares(1, x.data() + 1), 1e-60, 1e-67);
}

TYPED_TEST(Reduce, SumsRowsAndColumnsLikeTheReference) {
  using T = TypeParam;
  for (const int64_t rows : {0, 1, 31, 33, 257, 700}) {
    for (const int64_t cols : {1, 2, 17, 64, 300}) {
      const auto x = Array<T>::uniform(rows * cols, 1);
      const auto x64 = x.in_double();
      Array<T> by_row(rows);
      Array<double> expected_by_row(rows);
      sum_columns(rows, cols, x.data(), by_row.data());
      reference::sum_columns(rows, cols, x64.data(), expected_by_row.data());
      expect_close(by_row, expected_by_row, sum_coefficient(cols));
      for (const bool accumulate : {false, true}) {
        Array<T> by_col(cols, T(0.5));
        Array<double> expected_by_col(cols, 0.5);
        sum_rows<T>(rows, cols, x.data(), {by_col.data(), accumulate});
        reference::sum_rows<double>(rows, cols, x64.data(), {expected_by_col.data(), accumulate});
        expect_close(by_col, expected_by_col, sum_coefficient(rows));
      }
    }
  }
}

TYPED_TEST(Reduce, NormalisesRowsLikeTheReference) {
  using T = TypeParam;
  for (const int64_t rows : {0, 1, 70}) {
    for (const int64_t cols : {1, 2, 8, 33}) {
      const auto x = Array<T>::uniform(rows * cols, 1, 0.1, 1.0);
      const auto grad_y = Array<T>::uniform(rows * cols, 2);
      const auto x64 = x.in_double();
      const auto grad_y64 = grad_y.in_double();
      Array<T> y(rows * cols);
      Array<T> total(rows);
      Array<double> expected_y(rows * cols);
      Array<double> expected_total(rows);
      normalise_rows<T>(rows, cols, {x.data(), 1e-20, y.data(), total.data()});
      reference::normalise_rows<double>(
          rows, cols, {x64.data(), 1e-20, expected_y.data(), expected_total.data()});
      expect_close(y, expected_y, sum_coefficient(cols));
      expect_close(total, expected_total, sum_coefficient(cols));

      Array<T> grad_x(rows * cols, T(0.5));
      Array<double> expected(rows * cols, 0.5);
      normalise_rows_backward<T>(rows, cols,
                                 {y.data(), total.data(), grad_y.data(), {grad_x.data(), true}});
      reference::normalise_rows_backward<double>(
          rows, cols,
          {expected_y.data(), expected_total.data(), grad_y64.data(), {expected.data(), true}});
      // Totals down to 0.1 magnify the error of the dot product tenfold.
      expect_close(grad_x, expected, 10.0 * sum_coefficient(cols));
    }
  }
}

TYPED_TEST(Reduce, NormalisesTheWorkedSigmoidScores) {
  using T = TypeParam;
  // Sigmoids of the logits (2, 1) and (3, 1): the weights of two experts.
  const auto x = Array<T>::of({T(0.880797), T(0.731059), T(0.952574), T(0.731059)});
  Array<T> y(4);
  Array<T> total(2);
  normalise_rows<T>(2, 2, {x.data(), 1e-20, y.data(), total.data()});
  EXPECT_NEAR(y[0], 0.546449, 1e-6);
  EXPECT_NEAR(y[1], 0.453551, 1e-6);
  EXPECT_NEAR(y[2], 0.565785, 1e-6);
  EXPECT_NEAR(y[3], 0.434215, 1e-6);
}

TEST(ReduceThreads, GiveTheSameBits) {
  const auto x = Array<float>::uniform(300 * 500, 1);
  expect_same_bits_on_any_threads([&] {
    Array<float> y(500 + 1);
    sum_rows<float>(300, 500, x.data(), {y.data(), false});
    y[500] = static_cast<float>(sum(x.size(), x.data()));
    return y;
  });
}

}  // namespace
}  // namespace sluice::kernels
