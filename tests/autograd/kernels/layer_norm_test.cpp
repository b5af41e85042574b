#include "autograd/kernels/layer_norm.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/layer_norm.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;

constexpr int64_t kRows[] = {0, 1, 2, 33, 70};
constexpr int64_t kWidths[] = {2, 3, 8, 15, 16, 17, 31, 33, 64, 100, 257, 1000};
// With the variance of a few numbers as small as here, 1 / deviation is at most about 10, and
// epsilon keeps it so.
constexpr double kEpsilon = 1e-2;
// Mean, variance and two dot products in lanes, magnified by 1 / deviation up to 10.
constexpr double kCoefficient = 200.0;

template <class T>
class LayerNormKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(LayerNormKernel, FloatTypes);

TYPED_TEST(LayerNormKernel, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const int64_t rows : kRows) {
    for (const int64_t D : kWidths) {
      const auto x = Array<T>::uniform(rows * D, 1, -2.0, 2.0);
      const auto weight = Array<T>::uniform(D, 2);
      const auto bias = Array<T>::uniform(D, 3);
      const auto grad_y = Array<T>::uniform(rows * D, 4);
      Array<T> y(rows * D);
      Array<T> mean(rows);
      Array<T> r(rows);
      layer_norm<T>(
          rows, D,
          {x.data(), weight.data(), bias.data(), kEpsilon, y.data(), mean.data(), r.data()});
      const auto x64 = x.in_double();
      const auto weight64 = weight.in_double();
      const auto bias64 = bias.in_double();
      const auto grad_y64 = grad_y.in_double();
      Array<double> y64(rows * D);
      Array<double> mean64(rows);
      Array<double> r64(rows);
      reference::layer_norm<double>(rows, D,
                                    {x64.data(), weight64.data(), bias64.data(), kEpsilon,
                                     y64.data(), mean64.data(), r64.data()});
      expect_close(y, y64, kCoefficient);

      for (const bool accumulate : {false, true}) {
        Array<T> grad_x(rows * D, T(0.5));
        Array<T> grad_weight(D, T(0.5));
        Array<T> grad_bias(D, T(0.5));
        layer_norm_backward<T>(rows, D,
                               {.x = x.data(),
                                .weight = weight.data(),
                                .mean = mean.data(),
                                .reciprocal_deviation = r.data(),
                                .grad_y = grad_y.data(),
                                .grad_x = {grad_x.data(), accumulate},
                                .grad_weight = {grad_weight.data(), accumulate},
                                .grad_bias = {grad_bias.data(), accumulate}});
        Array<double> grad_x64(rows * D, 0.5);
        Array<double> grad_weight64(D, 0.5);
        Array<double> grad_bias64(D, 0.5);
        reference::layer_norm_backward<double>(rows, D,
                                               {.x = x64.data(),
                                                .weight = weight64.data(),
                                                .mean = mean64.data(),
                                                .reciprocal_deviation = r64.data(),
                                                .grad_y = grad_y64.data(),
                                                .grad_x = {grad_x64.data(), accumulate},
                                                .grad_weight = {grad_weight64.data(), accumulate},
                                                .grad_bias = {grad_bias64.data(), accumulate}});
        expect_close(grad_x, grad_x64, kCoefficient);
        expect_close(grad_weight, grad_weight64, kCoefficient);
        expect_close(grad_bias, grad_bias64, kCoefficient);
      }
    }
  }
}

TYPED_TEST(LayerNormKernel, IsUnmovedByAShiftAndAScaleOfTheRow) {
  using T = TypeParam;
  const auto x = Array<T>::of({T(1), T(2), T(3), T(6)});
  const auto moved = Array<T>::of({T(12), T(14), T(16), T(22)});  // 2 x + 10
  const auto weight = Array<T>(4, T(1));
  const auto bias = Array<T>(4, T(0));
  Array<T> y(4);
  Array<T> y_moved(4);
  Array<T> mean(1);
  Array<T> r(1);
  layer_norm<T>(1, 4, {x.data(), weight.data(), bias.data(), 0.0, y.data(), mean.data(), r.data()});
  layer_norm<T>(
      1, 4, {moved.data(), weight.data(), bias.data(), 0.0, y_moved.data(), mean.data(), r.data()});
  EXPECT_EQ(mean[0], T(16));
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_NEAR(y[i], y_moved[i], 4.0 * static_cast<double>(std::numeric_limits<T>::epsilon()));
  }
}

TEST(LayerNormInSingle, KeepsTheVarianceOfALargeMean) {
  // mean(x^2) - mean(x)^2 would be 0 here.
  const auto x = Array<float>::of({10000.0F, 10001.0F});
  const auto weight = Array<float>(2, 1.0F);
  const auto bias = Array<float>(2, 0.0F);
  Array<float> y(2);
  Array<float> mean(1);
  Array<float> r(1);
  layer_norm<float>(1, 2,
                    {x.data(), weight.data(), bias.data(), 0.0, y.data(), mean.data(), r.data()});
  EXPECT_EQ(y[0], -1.0F);
  EXPECT_EQ(y[1], 1.0F);
}

TEST(LayerNormThreads, GiveTheSameBits) {
  constexpr int64_t kRowCount = 500;
  constexpr int64_t kWidth = 96;
  const auto x = Array<float>::uniform(kRowCount * kWidth, 1);
  const auto weight = Array<float>::uniform(kWidth, 2);
  const Array<float> mean(kRowCount, 0.1F);
  const Array<float> r(kRowCount, 1.7F);
  expect_same_bits_on_any_threads([&] {
    Array<float> grad_weight(kWidth);
    layer_norm_backward<float>(kRowCount, kWidth,
                               {.x = x.data(),
                                .weight = weight.data(),
                                .mean = mean.data(),
                                .reciprocal_deviation = r.data(),
                                .grad_y = x.data(),
                                .grad_x = {},
                                .grad_weight = {grad_weight.data(), false},
                                .grad_bias = {}});
    return grad_weight;
  });
}

}  // namespace
}  // namespace sluice::kernels
