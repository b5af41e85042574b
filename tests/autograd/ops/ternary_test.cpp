#include "autograd/ops/ternary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"

namespace sluice {
namespace {

std::vector<double> numbers(const Tensor& x) {
  const auto values = x.span<double>();
  return {values.begin(), values.end()};
}

struct Worked {
  std::vector<double> weights;  // [2, 3]
  double scale;
  std::vector<double> levels;
};

class TernariseWorked : public ::testing::TestWithParam<Worked> {};

TEST_P(TernariseWorked, IsThatOfThePage) {
  Pool pool;
  Tape tape(pool);
  const Tensor x = Tensor::of<double>(pool, {1, 2, 3}, GetParam().weights);
  const std::vector<double> y = numbers(ternarise(tape, x));
  for (size_t i = 0; i < 6; ++i) {
    EXPECT_NEAR(y[i], GetParam().scale * GetParam().levels[i], 1e-6) << i;
  }
}

INSTANTIATE_TEST_SUITE_P(
    Pages, TernariseWorked,
    ::testing::Values(
        Worked{{.5, -.1, .02, -.7, .3, -.05}, .278333, {1, 0, 0, -1, 1, 0}},
        Worked{{.4, -.1, .9, -1.2, .05, .3}, .491667, {1, 0, 1, -1, 0, 1}}));

TEST(Ternarise, TakesEachMatrixByItself) {
  Pool pool;
  Tape tape(pool);
  const Tensor x = Tensor::of<double>(pool, {2, 2}, std::vector<double>{1, -1, 100, 300});
  const std::vector<double> y = numbers(ternarise(tape, x));
  EXPECT_NEAR(y[0], 1.0, 1e-12);
  EXPECT_NEAR(y[1], -1.0, 1e-12);
  // 100 / 200 is half way between 0 and 1 but for epsilon: the even one is 0.
  EXPECT_EQ(y[2], 0.0);
  EXPECT_NEAR(y[3], 200.0, 1e-12);
}

TEST(Ternarise, KeepsSignsAndZerosOfWhatIsTernary) {
  Pool pool;
  Tape tape(pool);
  const Tensor x = SampleFactory(pool, DType::f64, 3).uniform({3, 40});
  const Tensor once = ternarise(tape, x);
  const std::vector<double> first = numbers(once);
  const std::vector<double> again = numbers(ternarise(tape, once));
  for (size_t i = 0; i < first.size(); ++i) {
    EXPECT_EQ(first[i] == 0.0, again[i] == 0.0) << i;
    EXPECT_GE(first[i] * again[i], 0.0) << i;
  }
}

TEST(Ternarise, OfZerosIsZeros) {
  Pool pool;
  Tape tape(pool);
  for (const double value : numbers(ternarise(tape, Tensor::zeros(pool, {2, 4}, DType::f64)))) {
    EXPECT_EQ(value, 0.0);
  }
}

TEST(RoundRowsToInt8, IsThatOfThePage) {
  Pool pool;
  Tape tape(pool);
  const Tensor x = Tensor::of<double>(pool, {2, 3}, std::vector<double>{.5, -2, 1, 0, 0, 0});
  const std::vector<double> y = numbers(round_rows_to_int8(tape, x));
  // a = 127 / 2 = 63.5; 31.75 and 63.5 round to 32 and 64.
  EXPECT_NEAR(y[0], 32 / 63.5, 1e-12);
  EXPECT_NEAR(y[1], -127 / 63.5, 1e-12);
  EXPECT_NEAR(y[2], 64 / 63.5, 1e-12);
  for (size_t i = 3; i < 6; ++i) EXPECT_EQ(y[i], 0.0);
}

TEST(StraightThrough, PassesGradientsUnchanged) {
  Pool pool;
  for (Tensor (*op)(Tape&, const Tensor&) :
       {+[](Tape& tape, const Tensor& x) { return ternarise(tape, x); }, &round_rows_to_int8}) {
    Tape tape(pool);
    SampleFactory make(pool, DType::f64, 5);
    const Tensor x = tape.input(make.uniform({3, 4}, -3.0, 3.0));
    const Tensor weights = make.uniform({3, 4});
    tape.backward(sum(tape, mul(tape, op(tape, x), weights)));
    EXPECT_EQ(numbers(tape.gradient(x)), numbers(weights));
  }
}

}  // namespace
}  // namespace sluice
