#include "autograd/kernels/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

namespace sluice::kernels {
namespace {

template <class T>
class VectorMath : public testing::Test {};
using FloatingTypes = testing::Types<float, double>;
TYPED_TEST_SUITE(VectorMath, FloatingTypes);

/// |found - exact| in units of the last place of `exact` as a T (denormals included).
template <class T>
double ulps(T found, long double exact) {
  int exponent = 0;
  std::frexp(exact, &exponent);
  const int lowest = std::numeric_limits<T>::min_exponent;
  const long double unit =
      std::ldexp(1.0L, std::max(exponent, lowest) - std::numeric_limits<T>::digits);
  return static_cast<double>(std::abs(static_cast<long double>(found) - exact) / unit);
}

/// `count` points evenly over [low, high].
template <class T>
std::vector<T> points(double low, double high, int count) {
  std::vector<T> x;
  for (int i = 0; i < count; ++i) x.push_back(static_cast<T>(low + (high - low) * i / (count - 1)));
  return x;
}

TYPED_TEST(VectorMath, ExpIsWithinOneAndAHalfUlpFromDenormalsToOverflow) {
  using T = TypeParam;
  constexpr bool kIsFloat = sizeof(T) == 4;
  for (const auto& [low, high] : std::vector<std::pair<double, double>>{
           {-1e-3, 1e-3}, {-1, 1}, {kIsFloat ? -103.9 : -745.0, kIsFloat ? 88.7 : 709.7}}) {
    const std::vector<T> x = points<T>(low, high, 200001);
    std::vector<T> y(x.size());
    exp_array(static_cast<int64_t>(x.size()), x.data(), y.data());
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      worst = std::max(worst, ulps(y[i], std::exp(static_cast<long double>(x[i]))));
    }
    EXPECT_LT(worst, 1.5) << "on [" << low << ", " << high << "]";
  }
}

/// exp_of_negative, number by number.
template <class T>
T exp_of_negative_at(T x) {
  return exp_of_negative(broadcast(x)).v[0];
}

TYPED_TEST(VectorMath, ExpOfNegativeIsExpWithoutDenormalResults) {
  using T = TypeParam;
  constexpr bool kIsFloat = sizeof(T) == 4;
  for (const T x : points<T>(kIsFloat ? -87.0 : -708.0, 1.0, 20001)) {
    T whole;
    exp_array(1, &x, &whole);
    ASSERT_EQ(exp_of_negative_at(x), whole) << x;
  }
  for (const T x : points<T>(kIsFloat ? -120.0 : -800.0, kIsFloat ? -87.001 : -708.001, 2001)) {
    ASSERT_EQ(exp_of_negative_at(x), T{0}) << x;
  }
  EXPECT_EQ(exp_of_negative_at(-std::numeric_limits<T>::infinity()), T{0});
  EXPECT_TRUE(std::isnan(exp_of_negative_at(std::numeric_limits<T>::quiet_NaN())));
}

TYPED_TEST(VectorMath, ExpKeepsTheLimitsOfTheExponential) {
  using T = TypeParam;
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const std::vector<T> x = {
      -kInfinity, T(-1e30), T{0}, T(-0.0), T(1e30), kInfinity, std::numeric_limits<T>::quiet_NaN()};
  std::vector<T> y(x.size());
  exp_array(static_cast<int64_t>(x.size()), x.data(), y.data());
  EXPECT_EQ(y[0], T{0});
  EXPECT_EQ(y[1], T{0});
  EXPECT_EQ(y[2], T{1});
  EXPECT_EQ(y[3], T{1});
  EXPECT_EQ(y[4], kInfinity);
  EXPECT_EQ(y[5], kInfinity);
  EXPECT_TRUE(std::isnan(y[6]));
}

TYPED_TEST(VectorMath, SigmoidIsWithinThreeUlpAndNeverOverflows) {
  using T = TypeParam;
  constexpr bool kIsFloat = sizeof(T) == 4;
  const double limit = kIsFloat ? 103.0 : 744.0;
  double worst = 0;
  for (const T x : points<T>(-limit, limit, 200001)) {
    T lanes[Vec<T>::kWidth];
    store(lanes, sigmoid(broadcast(x)));
    const long double exact = 1.0L / (1.0L + std::exp(-static_cast<long double>(x)));
    worst = std::max(worst, ulps(lanes[0], exact));
  }
  EXPECT_LT(worst, 3.0);

  T lanes[Vec<T>::kWidth];
  store(lanes, sigmoid(broadcast(-std::numeric_limits<T>::infinity())));
  EXPECT_EQ(lanes[0], T{0});
  store(lanes, sigmoid(broadcast(std::numeric_limits<T>::infinity())));
  EXPECT_EQ(lanes[0], T{1});
  store(lanes, sigmoid(broadcast(std::numeric_limits<T>::quiet_NaN())));
  EXPECT_TRUE(std::isnan(lanes[0]));
}

TYPED_TEST(VectorMath, ResultsDoNotDependOnLaneLengthOrAlignment) {
  using T = TypeParam;
  constexpr int64_t kWidth = Vec<T>::kWidth;
  const std::vector<T> x = points<T>(-30, 30, static_cast<int>(3 * kWidth + 5));
  std::vector<T> whole(x.size());
  exp_array(static_cast<int64_t>(x.size()), x.data(), whole.data());
  for (size_t begin = 0; begin < x.size(); ++begin) {
    for (const size_t length :
         {size_t{0}, size_t{1}, size_t{kWidth - 1}, size_t{kWidth}, size_t{kWidth + 1}}) {
      if (begin + length > x.size()) continue;
      std::vector<T> part(length + 1, T{-1});
      exp_array(static_cast<int64_t>(length), x.data() + begin, part.data());
      for (size_t i = 0; i < length; ++i) EXPECT_EQ(part[i], whole[begin + i]);
      EXPECT_EQ(part[length], T{-1}) << "wrote past the end of " << length;
    }
  }
}

TYPED_TEST(VectorMath, ExpShiftedAddsUpWhatItWrites) {
  using T = TypeParam;
  constexpr int64_t kWidth = Vec<T>::kWidth;
  // kWidth-long chains of additions in a tree: n / kWidth roundings, doubled for the terms' own
  // error.
  constexpr double kCoefficient = 4;
  for (const int64_t n : {int64_t{0}, int64_t{1}, kWidth - 1, kWidth, kWidth + 1, 5 * kWidth + 3}) {
    const std::vector<T> x = points<T>(-3, 2, static_cast<int>(n + 2));
    std::vector<T> y(static_cast<size_t>(n));
    const T sum = exp_shifted(n, x.data(), T{2}, y.data());
    long double exact = 0;
    for (int64_t i = 0; i < n; ++i) {
      exact += std::exp(static_cast<long double>(x[static_cast<size_t>(i)]) - 2);
    }
    EXPECT_NEAR(static_cast<double>(sum), static_cast<double>(exact),
                kCoefficient * std::numeric_limits<T>::epsilon() * static_cast<double>(exact));
    EXPECT_EQ(sum, exp_shifted<T>(n, x.data(), T{2}, nullptr))
        << "with and without an output, n " << n;
  }
}

TYPED_TEST(VectorMath, MaxOfArrayFindsTheLargestWhereverItIs) {
  using T = TypeParam;
  EXPECT_EQ(max_of_array<T>(0, nullptr), -std::numeric_limits<T>::infinity());
  for (const size_t n : {size_t{1}, size_t{7}, size_t{16}, size_t{17}, size_t{40}}) {
    for (size_t where = 0; where < n; ++where) {
      std::vector<T> x(n, T{-5});
      x[where] = T{-2};
      EXPECT_EQ(max_of_array(static_cast<int64_t>(n), x.data()), T{-2});
    }
  }
}

}  // namespace
}  // namespace sluice::kernels
