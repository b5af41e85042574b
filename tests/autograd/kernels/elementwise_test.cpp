#include "autograd/kernels/elementwise.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/elementwise.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;
using testing::kLengths;

constexpr double kArithmetic = 1.0;  // one rounding, or two with a fused multiply-add left out
constexpr double kFunction = 8.0;    // a function good to 3 ulp and a few products after it

constexpr UnaryFunction kFunctions[] = {
    UnaryFunction::exp,    UnaryFunction::log,          UnaryFunction::sqrt,
    UnaryFunction::square, UnaryFunction::sigmoid,      UnaryFunction::tanh,
    UnaryFunction::erf,    UnaryFunction::softplus,     UnaryFunction::silu,
    UnaryFunction::relu,   UnaryFunction::relu_squared, UnaryFunction::elu_plus_one};

template <class T>
class Elementwise : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Elementwise, FloatTypes);

/// The domain of every function but log and sqrt reaches below zero.
template <class T>
Array<T> argument(UnaryFunction f, int64_t n) {
  const bool positive = f == UnaryFunction::log || f == UnaryFunction::sqrt;
  return Array<T>::uniform(n, 3, positive ? 0.1 : -6.0, 6.0);
}

TYPED_TEST(Elementwise, SumsAndProductsEqualTheirFormulaAtEveryLength) {
  using T = TypeParam;
  for (const int64_t n : kLengths) {
    const auto a = Array<T>::uniform(n, 1);
    const auto b = Array<T>::uniform(n, 2);
    Array<T> y(n);
    Array<double> expected(n);
    const auto compare = [&](auto formula) {
      for (int64_t i = 0; i < n; ++i) {
        expected[i] = formula(static_cast<double>(a[i]), static_cast<double>(b[i]));
      }
      expect_close(y, expected, kArithmetic);
    };
    add(n, a.data(), b.data(), y.data());
    compare([](double p, double q) { return p + q; });
    sub(n, a.data(), b.data(), y.data());
    compare([](double p, double q) { return p - q; });
    mul(n, a.data(), b.data(), y.data());
    compare([](double p, double q) { return p * q; });
    scale(n, T(0.5), a.data(), y.data());
    compare([](double p, double) { return 0.5 * p; });
    add_constant(n, a.data(), T(0.25), y.data());
    compare([](double p, double) { return p + 0.25; });
    add_scaled(n, a.data(), T(-1.5), b.data(), y.data());
    compare([](double p, double q) { return p - 1.5 * q; });
  }
}

TYPED_TEST(Elementwise, GradientsAreAddedOrOverwrittenAsAsked) {
  using T = TypeParam;
  for (const int64_t n : {5, 16387}) {
    const auto a = Array<T>::uniform(n, 1);
    const auto b = Array<T>::uniform(n, 2);
    for (const bool accumulate : {false, true}) {
      const double before = accumulate ? 0.5 : 0.0;
      Array<double> product(n);
      Array<double> scaled(n);
      for (int64_t i = 0; i < n; ++i) {
        product[i] = before + static_cast<double>(a[i]) * static_cast<double>(b[i]);
        scaled[i] = before - 2.0 * static_cast<double>(a[i]);
      }
      Array<T> y(n, T(0.5));
      put_product<T>(n, a.data(), b.data(), {y.data(), accumulate});
      expect_close(y, product, kArithmetic);
      y = Array<T>(n, T(0.5));
      put_scaled<T>(n, T(-2), a.data(), {y.data(), accumulate});
      expect_close(y, scaled, kArithmetic);
      y = Array<T>(n, T(0.5));
      put_constant<T>(n, T(3), {y.data(), accumulate});
      expect_close(y, Array<double>(n, before + 3.0), kArithmetic);
    }
  }
}

TYPED_TEST(Elementwise, FunctionsEqualTheirReferenceAtEveryLength) {
  using T = TypeParam;
  for (const UnaryFunction f : kFunctions) {
    SCOPED_TRACE(static_cast<int>(f));
    for (const int64_t n : kLengths) {
      const auto x = argument<T>(f, n);
      Array<T> y(n);
      Array<double> expected(n);
      for (int64_t i = 0; i < n; ++i) {
        expected[i] = reference::value_of(f, static_cast<double>(x[i]));
      }
      unary(f, n, x.data(), y.data());
      expect_close(y, expected, kFunction);
    }
  }
}

TYPED_TEST(Elementwise, DerivativesEqualTheirReferenceAtEveryLength) {
  using T = TypeParam;
  for (const UnaryFunction f : kFunctions) {
    SCOPED_TRACE(static_cast<int>(f));
    for (const int64_t n : kLengths) {
      const auto x = argument<T>(f, n);
      const auto grad_y = Array<T>::uniform(n, 4);
      Array<T> y(n);
      unary(f, n, x.data(), y.data());
      Array<T> grad_x(n, T(0.5));
      Array<double> expected(n);
      for (int64_t i = 0; i < n; ++i) {
        expected[i] = 0.5 + static_cast<double>(grad_y[i]) *
                                reference::slope_of(f, static_cast<double>(x[i]));
      }
      const T* saved = differentiates_from_output(f) ? y.data() : x.data();
      unary_backward<T>(f, n, saved, grad_y.data(), {grad_x.data(), true});
      // The derivative from a rounded output carries that rounding, times the output.
      expect_close(grad_x, expected, 2.0 * kFunction);
    }
  }
}

TYPED_TEST(Elementwise, AnElementsBitsDoNotDependOnItsPlace) {
  using T = TypeParam;
  for (const UnaryFunction f : kFunctions) {
    constexpr int64_t kCount = 75;
    const auto x = argument<T>(f, kCount);
    Array<T> together(kCount);
    unary(f, kCount, x.data(), together.data());
    Array<T> alone(kCount);
    for (int64_t i = 0; i < kCount; ++i) unary(f, 1, x.data() + i, alone.data() + i);
    EXPECT_TRUE(together.same_bits(alone)) << static_cast<int>(f);
  }
}

TYPED_TEST(Elementwise, FunctionsStayFiniteWhereTheirValueIs) {
  using T = TypeParam;
  const auto x = Array<T>::of({T(-1000), T(1000)});
  Array<T> y(2);
  unary(UnaryFunction::sigmoid, 2, x.data(), y.data());
  EXPECT_EQ(y[0], T(0));
  EXPECT_EQ(y[1], T(1));
  unary(UnaryFunction::softplus, 2, x.data(), y.data());
  EXPECT_EQ(y[0], T(0));
  EXPECT_EQ(y[1], T(1000));
  unary(UnaryFunction::silu, 2, x.data(), y.data());
  EXPECT_EQ(y[0], T(0));
  EXPECT_EQ(y[1], T(1000));
}

TYPED_TEST(Elementwise, SiluHasTheWorkedDerivative) {
  using T = TypeParam;
  const auto x = Array<T>::of({T(1), T(-2)});
  const auto ones = Array<T>::of({T(1), T(1)});
  Array<T> slope(2);
  unary_backward<T>(UnaryFunction::silu, 2, x.data(), ones.data(), {slope.data(), false});
  EXPECT_NEAR(slope[0], 0.927671, 1e-6);
  EXPECT_NEAR(slope[1], -0.090784, 1e-6);
}

TYPED_TEST(Elementwise, BroadcastsOverRowsAndColumns) {
  using T = TypeParam;
  for (const int64_t rows : {0, 1, 3, 70}) {
    for (const int64_t cols : {1, 5, 33, 300}) {
      const auto x = Array<T>::uniform(rows * cols, 1);
      const auto by_col = Array<T>::uniform(cols, 2);
      const auto by_row = Array<T>::uniform(rows, 3);
      Array<double> biased(rows * cols);
      Array<double> scaled(rows * cols);
      for (int64_t i = 0; i < rows * cols; ++i) {
        biased[i] = static_cast<double>(x[i]) + static_cast<double>(by_col[i % cols]);
        scaled[i] = static_cast<double>(x[i]) * static_cast<double>(by_row[i / cols]);
      }
      Array<T> y(rows * cols);
      add_bias(rows, cols, x.data(), by_col.data(), y.data());
      expect_close(y, biased, kArithmetic);
      mul_rows(rows, cols, x.data(), by_row.data(), y.data());
      expect_close(y, scaled, kArithmetic);

      Array<double> from_col(rows * cols);
      Array<double> from_row(rows * cols);
      for (int64_t i = 0; i < rows * cols; ++i) {
        from_col[i] = static_cast<double>(by_col[i % cols]);
        from_row[i] = static_cast<double>(by_row[i / cols]);
      }
      put_columns<T>(rows, cols, by_col.data(), {y.data(), false});
      expect_close(y, from_col, 0.0);
      put_rows<T>(rows, cols, by_row.data(), {y.data(), false});
      expect_close(y, from_row, 0.0);
    }
  }
}

TYPED_TEST(Elementwise, MulRowsBackwardEqualsItsReference) {
  using T = TypeParam;
  for (const int64_t rows : {0, 1, 70}) {
    for (const int64_t cols : {1, 33, 300}) {
      const auto x = Array<T>::uniform(rows * cols, 1);
      const auto factor = Array<T>::uniform(rows, 2);
      const auto grad_y = Array<T>::uniform(rows * cols, 3);
      const auto x64 = x.in_double();
      const auto factor64 = factor.in_double();
      const auto grad_y64 = grad_y.in_double();
      for (const bool accumulate : {false, true}) {
        Array<T> grad_x(rows * cols, T(0.5));
        Array<T> grad_factor(rows, T(0.5));
        mul_rows_backward<T>(rows, cols,
                             {.x = x.data(),
                              .factor = factor.data(),
                              .grad_y = grad_y.data(),
                              .grad_x = {grad_x.data(), accumulate},
                              .grad_factor = {grad_factor.data(), accumulate}});
        Array<double> expected_x(rows * cols, 0.5);
        Array<double> expected_factor(rows, 0.5);
        reference::mul_rows_backward<double>(rows, cols,
                                             {.x = x64.data(),
                                              .factor = factor64.data(),
                                              .grad_y = grad_y64.data(),
                                              .grad_x = {expected_x.data(), accumulate},
                                              .grad_factor = {expected_factor.data(), accumulate}});
        expect_close(grad_x, expected_x, kArithmetic);
        // A dot product of `cols` terms below one.
        expect_close(grad_factor, expected_factor, static_cast<double>(cols));
      }
    }
  }
}

TYPED_TEST(Elementwise, MulColumnsAndItsBackwardEqualTheirReferences) {
  using T = TypeParam;
  for (const int64_t rows : {0, 1, 70, 600}) {
    for (const int64_t cols : {1, 33, 300}) {
      const auto x = Array<T>::uniform(rows * cols, 1);
      const auto factor = Array<T>::uniform(cols, 2);
      const auto grad_y = Array<T>::uniform(rows * cols, 3);
      const auto x64 = x.in_double();
      const auto factor64 = factor.in_double();
      const auto grad_y64 = grad_y.in_double();
      Array<T> y(rows * cols);
      Array<double> expected(rows * cols);
      mul_columns(rows, cols, x.data(), factor.data(), y.data());
      for (int64_t i = 0; i < rows * cols; ++i) expected[i] = x64[i] * factor64[i % cols];
      expect_close(y, expected, kArithmetic);
      for (const bool accumulate : {false, true}) {
        Array<T> grad_x(rows * cols, T(0.5));
        Array<T> grad_factor(cols, T(0.5));
        mul_columns_backward<T>(rows, cols,
                                {.x = x.data(),
                                 .factor = factor.data(),
                                 .grad_y = grad_y.data(),
                                 .grad_x = {grad_x.data(), accumulate},
                                 .grad_factor = {grad_factor.data(), accumulate}});
        Array<double> expected_x(rows * cols, 0.5);
        Array<double> expected_factor(cols, 0.5);
        reference::mul_columns_backward<double>(
            rows, cols,
            {.x = x64.data(),
             .factor = factor64.data(),
             .grad_y = grad_y64.data(),
             .grad_x = {expected_x.data(), accumulate},
             .grad_factor = {expected_factor.data(), accumulate}});
        expect_close(grad_x, expected_x, kArithmetic);
        // A sum of `rows` terms below one.
        expect_close(grad_factor, expected_factor, static_cast<double>(std::max<int64_t>(1, rows)));
      }
    }
  }
}

TYPED_TEST(Elementwise, CopiesAPartOfAWiderArray) {
  using T = TypeParam;
  const auto x = Array<T>::uniform(4 * 10, 1);
  Array<T> y(4 * 6, T(2));
  put_strided<T>(4, 3, {x.data() + 5, 10, {y.data() + 1, true}, 6});
  Array<double> expected(4 * 6, 2.0);
  for (int64_t row = 0; row < 4; ++row) {
    for (int64_t col = 0; col < 3; ++col) {
      expected[row * 6 + 1 + col] += static_cast<double>(x[row * 10 + 5 + col]);
    }
  }
  expect_close(y, expected, kArithmetic);
}

TEST(ElementwiseThreads, GiveTheSameBits) {
  constexpr int64_t kCount = 100000;
  const auto x = Array<float>::uniform(kCount, 1, -5.0, 5.0);
  for (const UnaryFunction f : {UnaryFunction::silu, UnaryFunction::softplus}) {
    expect_same_bits_on_any_threads([&] {
      Array<float> y(kCount);
      unary(f, kCount, x.data(), y.data());
      return y;
    });
  }
}

}  // namespace
}  // namespace sluice::kernels
