#include "autograd/kernels/softmax.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/softmax.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;

constexpr int64_t kRows[] = {0, 1, 5, 70};
constexpr int64_t kCols[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 257, 1000};
// An exponential good to 1 ulp of an argument rounded once (|x - m| up to 12 here, hence 12 ulp of
// it), a sum.
constexpr double kCoefficient = 20.0;

template <class T>
class Softmax : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Softmax, FloatTypes);

TYPED_TEST(Softmax, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const int64_t rows : kRows) {
    for (const int64_t cols : kCols) {
      const int64_t n = rows * cols;
      const auto x = Array<T>::uniform(n, 1, -6.0, 6.0);
      const auto g = Array<T>::uniform(n, 2);
      const auto x64 = x.in_double();
      const auto g64 = g.in_double();
      Array<T> y(n);
      Array<double> y64(n);
      softmax(rows, cols, x.data(), y.data());
      reference::softmax(rows, cols, x64.data(), y64.data());
      expect_close(y, y64, kCoefficient);
      for (const bool accumulate : {false, true}) {
        Array<T> grad_x(n, T(0.5));
        Array<double> expected(n, 0.5);
        softmax_backward<T>(rows, cols, y.data(), g.data(), {grad_x.data(), accumulate});
        reference::softmax_backward<double>(rows, cols, y64.data(), g64.data(),
                                            {expected.data(), accumulate});
        expect_close(grad_x, expected, kCoefficient);
      }
    }
  }
}

TYPED_TEST(Softmax, LogarithmEqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const int64_t rows : kRows) {
    for (const int64_t cols : kCols) {
      const int64_t n = rows * cols;
      const auto x = Array<T>::uniform(n, 1, -6.0, 6.0);
      const auto g = Array<T>::uniform(n, 2);
      const auto x64 = x.in_double();
      const auto g64 = g.in_double();
      Array<T> y(n);
      Array<double> y64(n);
      log_softmax(rows, cols, x.data(), y.data());
      reference::log_softmax(rows, cols, x64.data(), y64.data());
      expect_close(y, y64, kCoefficient);
      Array<T> grad_x(n, T(0.5));
      Array<double> expected(n, 0.5);
      log_softmax_backward<T>(rows, cols, y.data(), g.data(), {grad_x.data(), true});
      reference::log_softmax_backward<double>(rows, cols, y64.data(), g64.data(),
                                              {expected.data(), true});
      expect_close(grad_x, expected, kCoefficient);
    }
  }
}

TYPED_TEST(Softmax, LogSumExpEqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const int64_t rows : kRows) {
    for (const int64_t cols : kCols) {
      const int64_t n = rows * cols;
      const auto x = Array<T>::uniform(n, 1, -6.0, 6.0);
      const auto g = Array<T>::uniform(rows, 2);
      const auto x64 = x.in_double();
      const auto g64 = g.in_double();
      Array<T> lse(rows);
      Array<double> lse64(rows);
      log_sum_exp(rows, cols, x.data(), lse.data());
      reference::log_sum_exp(rows, cols, x64.data(), lse64.data());
      expect_close(lse, lse64, kCoefficient);
      Array<T> grad_x(n, T(0.5));
      Array<double> expected(n, 0.5);
      log_sum_exp_backward<T>(rows, cols, {x.data(), lse.data(), g.data(), {grad_x.data(), true}});
      reference::log_sum_exp_backward<double>(
          rows, cols, {x64.data(), lse64.data(), g64.data(), {expected.data(), true}});
      expect_close(grad_x, expected, kCoefficient);
    }
  }
}

// Four tokens, four experts.
template <class T>
Array<T> routing_logits() {
  return Array<T>::of({T(2), T(1), T(0), T(-1), T(1), T(2), T(0.5), T(0), T(3), T(0), T(1), T(-1),
                       T(0.5), T(0), T(2), T(1)});
}

TYPED_TEST(Softmax, GivesTheWorkedRoutingProbabilities) {
  using T = TypeParam;
  const auto z = routing_logits<T>();
  Array<T> p(16);
  softmax(4, 4, z.data(), p.data());
  const double expected[] = {0.643914, 0.236883, 0.087144, 0.032059, 0.213097, 0.579259,
                             0.129250, 0.078394, 0.830953, 0.041371, 0.112457, 0.015219,
                             0.129250, 0.078394, 0.579259, 0.213097};
  for (int64_t i = 0; i < 16; ++i) EXPECT_NEAR(p[i], expected[i], 1e-6) << i;
}

TYPED_TEST(Softmax, GivesTheWorkedRouterZLossAndItsGradient) {
  using T = TypeParam;
  const auto z = routing_logits<T>();
  Array<T> lse(4);
  log_sum_exp(4, 4, z.data(), lse.data());
  const double expected[] = {2.440190, 2.546006, 3.185182, 2.546006};
  double z_loss = 0;
  Array<T> grad_lse(4);
  for (int64_t row = 0; row < 4; ++row) {
    EXPECT_NEAR(lse[row], expected[row], 1e-6);
    z_loss += static_cast<double>(lse[row] * lse[row]) / 4;
    grad_lse[row] = lse[row] / 2;  // of mean lse^2
  }
  EXPECT_NEAR(z_loss, 7.266053, 2e-6);
  Array<T> grad_z(16);
  log_sum_exp_backward<T>(4, 4, {z.data(), lse.data(), grad_lse.data(), {grad_z.data(), false}});
  const double first_row[] = {0.785636, 0.289020, 0.106324, 0.039115};
  for (int64_t i = 0; i < 4; ++i) EXPECT_NEAR(grad_z[i], first_row[i], 1e-6);
}

TYPED_TEST(Softmax, IsUnmovedByAShiftOfTheWholeRow) {
  using T = TypeParam;
  const auto x = Array<T>::of({T(1), T(2), T(4)});
  const auto shifted = Array<T>::of({T(1001), T(1002), T(1004)});
  Array<T> a(3);
  Array<T> b(3);
  softmax(1, 3, x.data(), a.data());
  softmax(1, 3, shifted.data(), b.data());
  EXPECT_TRUE(a.same_bits(b));
}

TYPED_TEST(Softmax, LeavesNothingToMinusInfinityAndSpreadsNaN) {
  using T = TypeParam;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
  const auto x = Array<T>::of({T(1), -kInfinity, T(1), T(0), kNaN, T(2)});
  Array<T> y(6);
  softmax(2, 3, x.data(), y.data());
  EXPECT_EQ(y[0], T(0.5));
  EXPECT_EQ(y[1], T(0));
  EXPECT_EQ(y[2], T(0.5));
  for (int64_t i = 3; i < 6; ++i) EXPECT_TRUE(std::isnan(y[i]));
}

TYPED_TEST(Softmax, ARowsBitsDoNotDependOnItsNeighbours) {
  using T = TypeParam;
  constexpr int64_t kRowCount = 9;
  constexpr int64_t kWidth = 37;
  const auto x = Array<T>::uniform(kRowCount * kWidth, 1, -5.0, 5.0);
  Array<T> together(kRowCount * kWidth);
  Array<T> alone(kRowCount * kWidth);
  softmax(kRowCount, kWidth, x.data(), together.data());
  for (int64_t row = 0; row < kRowCount; ++row) {
    softmax(1, kWidth, x.data() + row * kWidth, alone.data() + row * kWidth);
  }
  EXPECT_TRUE(together.same_bits(alone));
}

TEST(SoftmaxThreads, GiveTheSameBits) {
  const auto x = Array<float>::uniform(2000 * 64, 1, -5.0, 5.0);
  expect_same_bits_on_any_threads([&] {
    Array<float> y(x.size());
    softmax(2000, 64, x.data(), y.data());
    return y;
  });
}

}  // namespace
}  // namespace sluice::kernels
