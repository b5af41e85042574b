#include "autograd/kernels/rms_norm.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/rms_norm.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;

constexpr int64_t kRows[] = {0, 1, 2, 33, 70};
constexpr int64_t kWidths[] = {1, 2, 3, 8, 15, 16, 17, 31, 33, 64, 100, 257, 1000};
constexpr double kEpsilon = 1e-6;
// Four products, and the chain of D additions in the reference (the kernel's own are in lanes).
double coefficient(int64_t D) { return 20.0 + 0.1 * static_cast<double>(D); }

template <class T>
class RmsNormKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(RmsNormKernel, FloatTypes);

TYPED_TEST(RmsNormKernel, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const int64_t rows : kRows) {
    for (const int64_t D : kWidths) {
      // Away from zero: a row of width 1 near zero would magnify every rounding by 1 / x.
      const auto x = Array<T>::uniform(rows * D, 1, 0.2, 2.0);
      const auto weight = Array<T>::uniform(D, 2);
      const auto grad_y = Array<T>::uniform(rows * D, 3);
      Array<T> y(rows * D);
      Array<T> r(rows);
      rms_norm<T>(rows, D, {x.data(), weight.data(), kEpsilon, y.data(), r.data()});

      const auto x64 = x.in_double();
      const auto weight64 = weight.in_double();
      const auto grad_y64 = grad_y.in_double();
      Array<double> y64(rows * D);
      Array<double> r64(rows);
      reference::rms_norm<double>(rows, D,
                                  {x64.data(), weight64.data(), kEpsilon, y64.data(), r64.data()});
      expect_close(y, y64, coefficient(D));
      expect_close(r, r64, coefficient(D));

      for (const bool accumulate : {false, true}) {
        Array<T> grad_x(rows * D, T(0.5));
        Array<T> grad_weight(D, T(0.5));
        rms_norm_backward<T>(rows, D,
                             {.x = x.data(),
                              .weight = weight.data(),
                              .reciprocal_rms = r.data(),
                              .grad_y = grad_y.data(),
                              .grad_x = {grad_x.data(), accumulate},
                              .grad_weight = {grad_weight.data(), accumulate}});
        Array<double> grad_x64(rows * D, 0.5);
        Array<double> grad_weight64(D, 0.5);
        reference::rms_norm_backward<double>(rows, D,
                                             {.x = x64.data(),
                                              .weight = weight64.data(),
                                              .reciprocal_rms = r64.data(),
                                              .grad_y = grad_y64.data(),
                                              .grad_x = {grad_x64.data(), accumulate},
                                              .grad_weight = {grad_weight64.data(), accumulate}});
        expect_close(grad_x, grad_x64, coefficient(D));
        expect_close(grad_weight, grad_weight64, coefficient(D));
      }
    }
  }
}

TYPED_TEST(RmsNormKernel, GivesTheWorkedNumbers) {
  using T = TypeParam;
  const auto x = Array<T>::of({T(1), T(2), T(3), T(4)});
  const auto weight = Array<T>::of({T(1), T(0.5), T(2), T(1)});
  const auto grad_y = Array<T>::of({T(0.1), T(-0.2), T(0.3), T(0.4)});
  Array<T> y(4);
  Array<T> r(1);
  rms_norm<T>(1, 4, {x.data(), weight.data(), 1e-6, y.data(), r.data()});
  EXPECT_NEAR(r[0], 0.36514835, 1e-7);
  Array<T> grad_x(4);
  Array<T> grad_weight(4);
  rms_norm_backward<T>(1, 4,
                       {.x = x.data(),
                        .weight = weight.data(),
                        .reciprocal_rms = r.data(),
                        .grad_y = grad_y.data(),
                        .grad_x = {grad_x.data(), false},
                        .grad_weight = {grad_weight.data(), false}});
  const double expected_y[] = {0.365148, 0.365148, 2.190890, 1.460593};
  const double expected_grad_x[] = {-0.003651, -0.116847, 0.098590, -0.014606};
  const double expected_grad_weight[] = {0.036515, -0.146059, 0.328634, 0.584237};
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(y[i], expected_y[i], 1e-6);
    EXPECT_NEAR(grad_x[i], expected_grad_x[i], 1e-6);
    EXPECT_NEAR(grad_weight[i], expected_grad_weight[i], 1e-6);
  }
}

TYPED_TEST(RmsNormKernel, GradientIsOrthogonalToTheRow) {
  using T = TypeParam;
  constexpr int64_t kWidth = 50;
  const auto x = Array<T>::uniform(kWidth, 1, 1.0, 2.0);
  const auto weight = Array<T>::uniform(kWidth, 2);
  const auto grad_y = Array<T>::uniform(kWidth, 3);
  Array<T> y(kWidth);
  Array<T> r(1);
  rms_norm<T>(1, kWidth, {x.data(), weight.data(), 0.0, y.data(), r.data()});
  Array<T> grad_x(kWidth);
  rms_norm_backward<T>(1, kWidth,
                       {.x = x.data(),
                        .weight = weight.data(),
                        .reciprocal_rms = r.data(),
                        .grad_y = grad_y.data(),
                        .grad_x = {grad_x.data(), false},
                        .grad_weight = {}});
  double dot = 0;
  for (int64_t i = 0; i < kWidth; ++i) dot += static_cast<double>(grad_x[i] * x[i]);
  EXPECT_NEAR(dot, 0.0, 100.0 * static_cast<double>(std::numeric_limits<T>::epsilon()));
}

TYPED_TEST(RmsNormKernel, ARowsBitsDoNotDependOnItsNeighbours) {
  using T = TypeParam;
  constexpr int64_t kRowCount = 9;
  constexpr int64_t kWidth = 37;
  const auto x = Array<T>::uniform(kRowCount * kWidth, 1);
  const auto weight = Array<T>::uniform(kWidth, 2);
  Array<T> together(kRowCount * kWidth);
  Array<T> alone(kRowCount * kWidth);
  Array<T> r(kRowCount);
  rms_norm<T>(kRowCount, kWidth, {x.data(), weight.data(), kEpsilon, together.data(), r.data()});
  for (int64_t row = 0; row < kRowCount; ++row) {
    rms_norm<T>(
        1, kWidth,
        {x.data() + row * kWidth, weight.data(), kEpsilon, alone.data() + row * kWidth, r.data()});
  }
  EXPECT_TRUE(together.same_bits(alone));
}

TEST(RmsNormThreads, GiveTheSameBits) {
  constexpr int64_t kRowCount = 500;
  constexpr int64_t kWidth = 96;
  const auto x = Array<float>::uniform(kRowCount * kWidth, 1);
  const auto weight = Array<float>::uniform(kWidth, 2);
  Array<float> y(kRowCount * kWidth);
  Array<float> r(kRowCount);
  rms_norm<float>(kRowCount, kWidth, {x.data(), weight.data(), kEpsilon, y.data(), r.data()});
  expect_same_bits_on_any_threads([&] {
    Array<float> grad_weight(kWidth);
    rms_norm_backward<float>(kRowCount, kWidth,
                             {.x = x.data(),
                              .weight = weight.data(),
                              .reciprocal_rms = r.data(),
                              .grad_y = y.data(),
                              .grad_x = {},
                              .grad_weight = {grad_weight.data(), false}});
    return grad_weight;
  });
}

}  // namespace
}  // namespace sluice::kernels
