#include "autograd/kernels/gelu.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/gelu.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::kLengths;

// The argument 2 u reaches about 20 at |x| = 4, and its roundings pass through the sigmoid where
// that is not flat.
constexpr double kCoefficient = 20.0;

template <class T>
class Gelu : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Gelu, FloatTypes);

TYPED_TEST(Gelu, EqualsTheReferenceAtEveryLength) {
  using T = TypeParam;
  for (const int64_t n : kLengths) {
    const auto x = Array<T>::uniform(n, 1, -4.0, 4.0);
    const auto grad_y = Array<T>::uniform(n, 2);
    const auto x64 = x.in_double();
    const auto grad_y64 = grad_y.in_double();
    Array<T> y(n);
    Array<double> y64(n);
    gelu_tanh(n, x.data(), y.data());
    reference::gelu_tanh(n, x64.data(), y64.data());
    expect_close(y, y64, kCoefficient);
    for (const bool accumulate : {false, true}) {
      Array<T> grad_x(n, T(0.5));
      Array<double> expected(n, 0.5);
      gelu_tanh_backward<T>(n, x.data(), grad_y.data(), {grad_x.data(), accumulate});
      reference::gelu_tanh_backward<double>(n, x64.data(), grad_y64.data(),
                                            {expected.data(), accumulate});
      expect_close(grad_x, expected, kCoefficient);
    }
  }
}

TYPED_TEST(Gelu, GivesKnownValues) {
  using T = TypeParam;
  // x/2 (1 + tanh((2/pi)^(1/2) (x + 0.044715 x^3))) at 1 and -1, to ten digits.
  const auto x = Array<T>::of({T(0), T(1), T(-1), T(-30), T(30)});
  Array<T> y(5);
  gelu_tanh(5, x.data(), y.data());
  EXPECT_EQ(y[0], T(0));
  EXPECT_NEAR(y[1], 0.8411919906, 1e-6);
  EXPECT_NEAR(y[2], -0.1588080094, 1e-6);
  EXPECT_EQ(y[3], T(0));
  EXPECT_EQ(y[4], T(30));
}

}  // namespace
}  // namespace sluice::kernels
