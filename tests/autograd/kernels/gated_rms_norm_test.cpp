#include "autograd/kernels/gated_rms_norm.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/gated_rms_norm.h"
#include "autograd/kernels/rms_norm.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;

constexpr int64_t kRows[] = {0, 1, 2, 33, 70};
constexpr int64_t kWidths[] = {1, 2, 3, 8, 15, 16, 17, 33, 64, 100, 257};
constexpr double kEpsilon = 1e-6;
// Five products of factors up to 2 and a sigmoid; the chain of additions of the reference; up to 70
// rows in the gradient of the weight.
double coefficient(int64_t D) { return 120.0 + 0.1 * static_cast<double>(D); }

template <class T>
class GatedRmsNormKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(GatedRmsNormKernel, FloatTypes);

template <class T>
void expect_the_reference(int64_t rows, const GatedRmsNormShape& shape) {
  const int64_t D = shape.D;
  const int64_t norms = rows * (D / shape.group_size);
  // Away from zero, where a group of one channel would magnify every rounding.
  const auto x = Array<T>::uniform(rows * D, 1, 0.2, 2.0);
  const auto z = Array<T>::uniform(rows * D, 2, 0.2, 3.0);
  const auto weight = Array<T>::uniform(D, 3);
  const auto grad_y = Array<T>::uniform(rows * D, 4);
  const auto x64 = x.in_double(), z64 = z.in_double(), weight64 = weight.in_double(),
             grad_y64 = grad_y.in_double();
  Array<T> y(rows * D), r(norms);
  Array<double> y64(rows * D), r64(norms);
  gated_rms_norm<T>(rows, shape, {x.data(), z.data(), weight.data(), y.data(), r.data()});
  reference::gated_rms_norm<double>(
      rows, shape, {x64.data(), z64.data(), weight64.data(), y64.data(), r64.data()});
  expect_close(y, y64, coefficient(D));
  expect_close(r, r64, coefficient(D));
  for (const bool accumulate : {false, true}) {
    Array<T> grad_x(rows * D, T(0.5)), grad_z(rows * D, T(0.5)), grad_weight(D, T(0.5));
    Array<double> grad_x64(rows * D, 0.5), grad_z64(rows * D, 0.5), grad_weight64(D, 0.5);
    gated_rms_norm_backward<T>(rows, shape,
                               {x.data(),
                                z.data(),
                                weight.data(),
                                r.data(),
                                grad_y.data(),
                                {grad_x.data(), accumulate},
                                {grad_z.data(), accumulate},
                                {grad_weight.data(), accumulate}});
    reference::gated_rms_norm_backward<double>(rows, shape,
                                               {x64.data(),
                                                z64.data(),
                                                weight64.data(),
                                                r64.data(),
                                                grad_y64.data(),
                                                {grad_x64.data(), accumulate},
                                                {grad_z64.data(), accumulate},
                                                {grad_weight64.data(), accumulate}});
    expect_close(grad_x, grad_x64, coefficient(D));
    expect_close(grad_z, grad_z64, coefficient(D));
    expect_close(grad_weight, grad_weight64, coefficient(D));
  }
}

TYPED_TEST(GatedRmsNormKernel, EqualsTheReferenceForwardAndBackward) {
  for (const bool norm_first : {false, true}) {
    for (const int64_t rows : kRows) {
      for (const int64_t width : kWidths) {
        expect_the_reference<TypeParam>(rows, {width, width, norm_first, kEpsilon});
        expect_the_reference<TypeParam>(rows, {3 * width, width, norm_first, kEpsilon});
      }
    }
  }
}

TYPED_TEST(GatedRmsNormKernel, WithAnOpenGateIsRmsNorm) {
  // silu(40) is 40 to the last bit, and the norm takes the factor out again.
  using T = TypeParam;
  constexpr int64_t kWidth = 48;
  const auto x = Array<T>::uniform(kWidth, 1, 0.5, 2.0);
  const Array<T> z(kWidth, T(40));
  const auto weight = Array<T>::uniform(kWidth, 2);
  Array<T> plain(kWidth), gated(kWidth), r(1);
  rms_norm<T>(1, kWidth, {x.data(), weight.data(), 0.0, plain.data(), r.data()});
  gated_rms_norm<T>(1, {kWidth, kWidth, false, 0.0},
                    {x.data(), z.data(), weight.data(), gated.data(), r.data()});
  expect_close(gated, plain.in_double(), 10.0);
  gated_rms_norm<T>(1, {kWidth, kWidth, true, 0.0},
                    {x.data(), z.data(), weight.data(), gated.data(), r.data()});
  for (int64_t i = 0; i < kWidth; ++i) plain[i] *= T(40);
  expect_close(gated, plain.in_double(), 10.0);
}

TYPED_TEST(GatedRmsNormKernel, ARowsBitsDoNotDependOnItsNeighbours) {
  using T = TypeParam;
  constexpr int64_t kRowCount = 9, kWidth = 38;
  const GatedRmsNormShape shape{kWidth, kWidth / 2, false, kEpsilon};
  const auto x = Array<T>::uniform(kRowCount * kWidth, 1);
  const auto z = Array<T>::uniform(kRowCount * kWidth, 2, -3, 3);
  const auto weight = Array<T>::uniform(kWidth, 3);
  Array<T> together(kRowCount * kWidth), alone(kRowCount * kWidth), r(2 * kRowCount);
  gated_rms_norm<T>(kRowCount, shape,
                    {x.data(), z.data(), weight.data(), together.data(), r.data()});
  for (int64_t at = 0; at < kRowCount * kWidth; at += kWidth) {
    gated_rms_norm<T>(1, shape,
                      {x.data() + at, z.data() + at, weight.data(), alone.data() + at, r.data()});
  }
  EXPECT_TRUE(together.same_bits(alone));
}

TEST(GatedRmsNormThreads, GiveTheSameBits) {
  constexpr int64_t kRowCount = 500, kWidth = 96;
  const GatedRmsNormShape shape{kWidth, 32, false, kEpsilon};
  const auto x = Array<float>::uniform(kRowCount * kWidth, 1);
  const auto z = Array<float>::uniform(kRowCount * kWidth, 2);
  const auto weight = Array<float>::uniform(kWidth, 3);
  expect_same_bits_on_any_threads([&] {
    Array<float> y(kRowCount * kWidth), r(kRowCount * 3), grad_weight(kWidth);
    gated_rms_norm<float>(kRowCount, shape,
                          {x.data(), z.data(), weight.data(), y.data(), r.data()});
    gated_rms_norm_backward<float>(kRowCount, shape,
                                   {x.data(),
                                    z.data(),
                                    weight.data(),
                                    r.data(),
                                    y.data(),
                                    {},
                                    {},
                                    {grad_weight.data(), false}});
    return grad_weight;
  });
}

}  // namespace
}  // namespace sluice::kernels
