// The formulas themselves; the methods' tests hold their gradients against differences.

#include "balance/variation.h"

#include <gtest/gtest.h>

#include "autograd/core/gradcheck.h"
#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::RoutedBatch;
using testing::RoutedBatchOptions;

/// Half a unit of the sixth decimal: the worked examples are printed to six.
constexpr double kPrinted = 6e-7;

class Variation : public ::testing::Test {
 protected:
  double variation_of(const std::vector<double>& v, Variance variance = Variance::unbiased) {
    Tape tape(pool_);
    const Tensor tensor = Tensor::of<double>(pool_, {static_cast<int64_t>(v.size())}, v);
    return squared_variation(tape, tensor, variance).item();
  }
  Tensor matrix(int64_t rows, const std::vector<double>& values) {
    return Tensor::of<double>(pool_, {rows, static_cast<int64_t>(values.size()) / rows}, values);
  }
  /// Logits of which `noisy` are what the router ranks.
  static RouterScores noisy_scores(Tape& tape, const Tensor& clean, const Tensor& scale,
                                   const Tensor& noisy) {
    const Tensor p = softmax(tape, noisy);
    return {noisy, p, p, clean, scale};
  }
  std::vector<double> smooth_load_of(const Tensor& clean, const Tensor& scale, const Tensor& noisy,
                                     int64_t top_k) {
    Tape tape(pool_);
    const RoutedBatch batch(noisy_scores(tape, clean, scale, noisy), layout_of({clean.dim(0)}),
                            {.top_k = top_k});
    const Tensor load = smooth_load(tape, batch.input());
    const auto values = load.span<double>();
    return {values.begin(), values.end()};
  }
  Pool pool_;
};

void expect_printed(const std::vector<double>& actual, const std::vector<double>& expected) {
  ASSERT_EQ(actual.size(), expected.size());
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(actual[i], expected[i], kPrinted) << i;
}

TEST_F(Variation, AgreesWithTheWorkedExample) {
  const std::vector<double> v = {1.880797, 1.0, 0.850262, 0.268941};
  EXPECT_NEAR(variation_of(v), 0.444224, 2.0 * kPrinted);
  EXPECT_NEAR(variation_of(v, Variance::population), 0.333168, 2.0 * kPrinted);
}

TEST_F(Variation, IsZeroForEqualValuesForZerosAndForOneExpert) {
  for (const Variance variance : {Variance::unbiased, Variance::population}) {
    EXPECT_EQ(variation_of({0.5, 0.5, 0.5}, variance), 0.0);
    EXPECT_EQ(variation_of({0.0, 0.0}, variance), 0.0);
    EXPECT_EQ(variation_of({3.0}, variance), 0.0);
    EXPECT_GT(variation_of({1.0, 2.0}, variance), 0.0);
  }
}

TEST_F(Variation, DoesNotDependOnTheScale) {
  EXPECT_NEAR(variation_of({1.0, 2.0, 4.0}), variation_of({64.0, 128.0, 256.0}), 1e-10);
}

TEST_F(Variation, HasTheGradientOfTheClosedForm) {
  const std::vector<double> v = {1.880797, 1.0, 0.850262, 0.268941};
  Tape tape(pool_);
  const Tensor input = tape.input(Tensor::of<double>(pool_, {4}, v));
  const Tensor value = squared_variation(tape, input, Variance::unbiased);
  const double squared = value.item();
  tape.backward(value);
  const Tensor grad = tape.gradient(input);
  const double mean = std::accumulate(v.begin(), v.end(), 0.0) / 4.0;
  for (size_t i = 0; i < 4; ++i) {
    const double expected = 2.0 / 3.0 * (v[i] - mean) / (mean * mean) - 2.0 / 4.0 * squared / mean;
    EXPECT_NEAR(grad.span<double>()[i], expected, 1e-9);
  }
}

TEST_F(Variation, ImportanceOfGatesAndOfProbabilitiesAgreeWithTheWorkedExample) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, matrix(4, f1_logits()), layout_of({4}), {.top_k = 2});
  const auto none = testing::make_one("none", 4);
  const Selection selection = batch.route(*none);
  const auto values = [&](Importance of) {
    const Tensor v = importance(tape, batch.input(), selection, of);
    return std::vector<double>(v.span<double>().begin(), v.span<double>().end());
  };
  expect_printed(values(Importance::gates), {1.880797, 1.0, 0.850262, 0.268941});
  std::vector<double> probabilities = values(Importance::probabilities);
  for (double& p : probabilities) p /= 4.0;
  expect_printed(probabilities, {0.454304, 0.233977, 0.227028, 0.084692});
}

TEST_F(Variation, ImportanceLeavesOutTokensWithoutALossAndEmptySlots) {
  Tape tape(pool_);
  SequenceLayout layout = layout_of({4});
  layout.counted[1] = 0;
  const RoutedBatch batch(tape, matrix(4, f1_logits()), layout, {.top_k = 2});
  const auto none = testing::make_one("none", 4);
  Selection selection = batch.route(*none);
  selection.expert = {0, 1, 1, 0, 0, kNoExpert, kNoExpert, kNoExpert};
  const Tensor v = importance(tape, batch.input(), selection, Importance::gates);
  // Token 0 has gates (0.731059, 0.268941), token 2 a gate of 1, token 3 none.
  expect_printed({v.span<double>().begin(), v.span<double>().end()},
                 {1.731059, 0.268941, 0.0, 0.0});
}

TEST_F(Variation, ImportanceOfASingleGateIsItsScore) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, matrix(4, f1_logits()), layout_of({4}), {.top_k = 1});
  const auto none = testing::make_one("none", 4);
  const Tensor v = importance(tape, batch.input(), batch.route(*none), Importance::gates);
  expect_printed({v.span<double>().begin(), v.span<double>().end()},
                 {0.643914 + 0.830953, 0.579259, 0.579259, 0.0});
}

TEST_F(Variation, SmoothLoadAgreesWithTheWorkedExample) {
  expect_printed(smooth_load_of(matrix(1, {1.0, 0.5, 0.0}), matrix(1, {0.5, 0.5, 0.5}),
                                matrix(1, {1.2, 0.3, 0.4}), 1),
                 {0.884930, 0.080757, 0.008198});
}

TEST_F(Variation, SmoothLoadIsTheChoiceWithoutNoiseToSpeakOf) {
  const Tensor z = matrix(2, {3.0, 2.0, 1.0, 0.0, 0.0, 1.0, 2.0, 3.0});
  const Tensor scale = matrix(2, std::vector<double>(8, 1e-3));
  EXPECT_EQ(smooth_load_of(z, scale, z, 1), (std::vector<double>{1.0, 0.0, 0.0, 1.0}));
  EXPECT_EQ(smooth_load_of(z, scale, z, 3), (std::vector<double>{1.0, 2.0, 2.0, 1.0}));
}

TEST_F(Variation, SmoothLoadIsEveryTokenWhenAllExpertsAreChosen) {
  const Tensor z = matrix(2, {3.0, -2.0, 1.0, 0.5});
  EXPECT_EQ(smooth_load_of(z, matrix(2, {1.0, 2.0, 0.5, 1.0}), z, 2),
            (std::vector<double>{2.0, 2.0}));
}

TEST_F(Variation, SmoothLoadHasItsGradientInTheLogitsAndTheNoise) {
  SampleFactory factory(pool_, DType::f64);
  const Tensor clean = factory.uniform({6, 5}, -1.0, 1.0);
  const Tensor scale = factory.uniform({6, 5}, 0.3, 1.0);
  const Tensor noisy = factory.uniform({6, 5}, -2.0, 2.0);
  SequenceLayout layout = layout_of({6});
  layout.counted[2] = 0;
  for (const int64_t top_k : {1, 2, 5}) {
    const OpSample sample{.label = "smooth load",
                          .inputs = {clean, scale},
                          .differentiable = {true, true},
                          .apply = [&](Tape& tape, std::span<const Tensor> inputs) {
                            const RoutedBatch batch(noisy_scores(tape, inputs[0], inputs[1], noisy),
                                                    layout, {.top_k = top_k});
                            return std::vector<Tensor>{smooth_load(tape, batch.input())};
                          }};
    const GradcheckReport report = gradcheck(pool_, sample);
    EXPECT_TRUE(report.passed) << report.message;
  }
}

}  // namespace
}  // namespace sluice
