#include "autograd/kernels/swiglu.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/swiglu.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;

constexpr int64_t kRows[] = {0, 1, 3, 40};
constexpr int64_t kWidths[] = {1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 100, 1000};
constexpr double kCoefficient =
    10.0;  // a sigmoid good to 3 ulp and up to five products of factors up to 5

template <class T>
class SwiGluKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(SwiGluKernel, FloatTypes);

TYPED_TEST(SwiGluKernel, EqualsTheReferenceForSeparateAndForJoinedOperands) {
  using T = TypeParam;
  for (const int64_t rows : kRows) {
    for (const int64_t F : kWidths) {
      for (const int64_t stride : {F, 2 * F}) {
        // With a stride of 2 F, gate and up are the halves of one array.
        const auto in = Array<T>::uniform(2 * rows * F, 1, -5.0, 5.0);
        const auto grad_h = Array<T>::uniform(rows * F, 2);
        const auto in64 = in.in_double();
        const auto grad_h64 = grad_h.in_double();
        const int64_t up = stride == F ? rows * F : F;
        Array<T> h(rows * F);
        Array<double> h64(rows * F);
        swiglu<T>(rows, F, {in.data(), in.data() + up, stride, h.data()});
        reference::swiglu<double>(rows, F, {in64.data(), in64.data() + up, stride, h64.data()});
        expect_close(h, h64, kCoefficient);

        for (const bool accumulate : {false, true}) {
          Array<T> grad(2 * rows * F, T(0.5));
          Array<double> grad64(2 * rows * F, 0.5);
          swiglu_backward<T>(rows, F,
                             {.gate = in.data(),
                              .up = in.data() + up,
                              .in_stride = stride,
                              .grad_h = grad_h.data(),
                              .grad_gate = {grad.data(), accumulate},
                              .grad_up = {grad.data() + up, accumulate}});
          reference::swiglu_backward<double>(rows, F,
                                             {.gate = in64.data(),
                                              .up = in64.data() + up,
                                              .in_stride = stride,
                                              .grad_h = grad_h64.data(),
                                              .grad_gate = {grad64.data(), accumulate},
                                              .grad_up = {grad64.data() + up, accumulate}});
          expect_close(grad, grad64, kCoefficient);
        }
      }
    }
  }
}

TYPED_TEST(SwiGluKernel, GivesTheWorkedNumbers) {
  using T = TypeParam;
  const auto gate = Array<T>::of({T(1), T(-2)});
  const auto up = Array<T>::of({T(0.5), T(3)});
  const auto ones = Array<T>(2, T(1));
  Array<T> h(2);
  swiglu<T>(1, 2, {gate.data(), up.data(), 2, h.data()});
  EXPECT_NEAR(h[0], 0.365529, 1e-6);
  EXPECT_NEAR(h[1], -0.715218, 1e-6);
  Array<T> grad_gate(2);
  swiglu_backward<T>(1, 2,
                     {.gate = gate.data(),
                      .up = up.data(),
                      .in_stride = 2,
                      .grad_h = ones.data(),
                      .grad_gate = {grad_gate.data(), false},
                      .grad_up = {}});
  EXPECT_NEAR(grad_gate[0], 0.5 * 0.927671, 1e-6);
  EXPECT_NEAR(grad_gate[1], 3.0 * -0.090784, 3e-6);
}

TYPED_TEST(SwiGluKernel, ARowsBitsDoNotDependOnItsNeighbours) {
  using T = TypeParam;
  constexpr int64_t kRowCount = 9;
  constexpr int64_t kWidth = 37;
  const auto gate = Array<T>::uniform(kRowCount * kWidth, 1, -5.0, 5.0);
  const auto up = Array<T>::uniform(kRowCount * kWidth, 2);
  Array<T> together(kRowCount * kWidth);
  Array<T> alone(kRowCount * kWidth);
  swiglu<T>(kRowCount, kWidth, {gate.data(), up.data(), kWidth, together.data()});
  for (int64_t start = 0; start < kRowCount * kWidth; start += kWidth) {
    swiglu<T>(1, kWidth, {gate.data() + start, up.data() + start, kWidth, alone.data() + start});
  }
  EXPECT_TRUE(together.same_bits(alone));
}

TEST(SwiGluThreads, GiveTheSameBits) {
  const auto gate = Array<float>::uniform(300 * 200, 1, -5.0, 5.0);
  const auto up = Array<float>::uniform(300 * 200, 2);
  expect_same_bits_on_any_threads([&] {
    Array<float> h(300 * 200);
    swiglu<float>(300, 200, {gate.data(), up.data(), 200, h.data()});
    return h;
  });
}

}  // namespace
}  // namespace sluice::kernels
