// The formulas themselves: worked examples, gradients against differences, masks.

#include "balance/losses.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "autograd/core/gradcheck.h"
#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using testing::f1_logits;
using testing::layout_of;
using testing::RoutedBatch;
using testing::RoutedBatchOptions;
using testing::ScoreFunction;

/// Half a unit of the sixth decimal: the worked examples are printed to six.
constexpr double kPrinted = 6e-7;

class LossesTest : public ::testing::Test {
 protected:
  Tensor logits(const std::vector<double>& values, int64_t experts) {
    return Tensor::of<double>(pool_, {static_cast<int64_t>(values.size()) / experts, experts},
                              values);
  }
  Tensor random_logits(int64_t tokens, int64_t experts) {
    SampleFactory factory(pool_, DType::f64);
    return factory.uniform({tokens, experts}, -2.0, 2.0);
  }

  struct Result {
    double value;
    std::vector<double> grad;  // with respect to the logits
  };
  /// Value and gradient of loss(tape, input) at `z`.
  template <class Loss>
  Result evaluate(const Tensor& z, const SequenceLayout& layout, RoutedBatchOptions options,
                  Loss&& loss) {
    Tape tape(pool_);
    const Tensor input = tape.input(z);
    const RoutedBatch batch(tape, input, layout, options);
    const Tensor value = loss(tape, batch.input());
    tape.backward(value);
    const Tensor grad = tape.gradient(input);
    const auto grads = grad.span<double>();
    return {value.item(), {grads.begin(), grads.end()}};
  }

  template <class Loss>
  void expect_gradient(const Tensor& z, const SequenceLayout& layout, RoutedBatchOptions options,
                       Loss loss) {
    const OpSample sample{.label = "loss",
                          .inputs = {z},
                          .differentiable = {true},
                          .apply = [&](Tape& tape, std::span<const Tensor> inputs) {
                            const RoutedBatch batch(tape, inputs[0], layout, options);
                            return std::vector<Tensor>{loss(tape, batch.input())};
                          }};
    const GradcheckReport report = gradcheck(pool_, sample);
    EXPECT_TRUE(report.passed) << report.message;
  }

  Pool pool_;
};

const std::vector<double> kF1Fractions = {0.375, 0.25, 0.25, 0.125};

void expect_row(const std::vector<double>& grad, size_t row, const std::vector<double>& expected) {
  for (size_t e = 0; e < expected.size(); ++e) {
    EXPECT_NEAR(grad[row * expected.size() + e], expected[e], kPrinted) << row << ", " << e;
  }
}

TEST_F(LossesTest, FractionsSumToOneAndAreZeroForNothing) {
  ArenaScope scratch(thread_arena());
  EXPECT_THAT(load_fractions(scratch, std::vector<int64_t>{3, 2, 2, 1}),
              ElementsAreArray(kF1Fractions));
  EXPECT_THAT(load_fractions(scratch, std::vector<int64_t>{0, 0}), ElementsAre(0.0, 0.0));
}

TEST_F(LossesTest, LoadBalancingLossAgreesWithTheWorkedExample) {
  const auto loss = [](Tape& tape, const RouterInput& input) {
    return load_balancing_loss(tape, input, kF1Fractions, 1.0);
  };
  const Result result = evaluate(logits(f1_logits(), 4), layout_of({4}), {.top_k = 2}, loss);
  EXPECT_NEAR(result.value, 1.184806, kPrinted);
  expect_row(result.grad, 0, {0.031241, -0.018117, -0.006665, -0.006459});
  expect_row(result.grad, 3, {0.017511, 0.000822, 0.006071, -0.024404});
}

TEST_F(LossesTest, LoadBalancingLossOfFirstChoicesAgreesWithTheWorkedExample) {
  const std::vector<double> first_choices = {0.5, 0.25, 0.25, 0.0};
  const Result result = evaluate(logits(f1_logits(), 4), layout_of({4}), {.top_k = 2},
                                 [&](Tape& tape, const RouterInput& input) {
                                   return load_balancing_loss(tape, input, first_choices, 1.0);
                                 });
  EXPECT_NEAR(result.value, 1.369611, kPrinted);
}

TEST_F(LossesTest, LoadBalancingLossOfSigmoidScoresUsesTheirShares) {
  const auto loss = [](Tape& tape, const RouterInput& input) {
    return load_balancing_loss(tape, input, kF1Fractions, 1.0);
  };
  const RoutedBatchOptions options = {.top_k = 2, .scores = ScoreFunction::sigmoid};
  const Result result = evaluate(logits(f1_logits(), 4), layout_of({4}), options, loss);
  EXPECT_NEAR(result.value, 1.072565, kPrinted);
}

TEST_F(LossesTest, LoadBalancingLossIsTheCoefficientAtUniformLoad) {
  const std::vector<double> uniform(4, 0.25);
  const Result result = evaluate(logits(f1_logits(), 4), layout_of({4}), {.top_k = 2},
                                 [&](Tape& tape, const RouterInput& input) {
                                   return load_balancing_loss(tape, input, uniform, 0.01);
                                 });
  EXPECT_NEAR(result.value, 0.01, 1e-16);
  for (const double grad : result.grad) EXPECT_NEAR(grad, 0.0, 1e-17);
}

TEST_F(LossesTest, LoadBalancingLossIsTheNumberOfExpertsAtCollapse) {
  // One expert takes all probability (to rounding) and all load.
  const std::vector<double> collapsed = {800.0, 0.0, 0.0, 800.0, 0.0, 0.0};
  const std::vector<double> fractions = {1.0, 0.0, 0.0};
  const Result result = evaluate(logits(collapsed, 3), layout_of({2}), {.top_k = 1},
                                 [&](Tape& tape, const RouterInput& input) {
                                   return load_balancing_loss(tape, input, fractions, 0.01);
                                 });
  EXPECT_DOUBLE_EQ(result.value, 0.03);
}

TEST_F(LossesTest, LoadBalancingGradientsOfATokenSumToZero) {
  const Result result = evaluate(random_logits(6, 5), layout_of({6}), {.top_k = 2},
                                 [](Tape& tape, const RouterInput& input) {
                                   const std::vector<double> f = {0.5, 0.2, 0.1, 0.1, 0.1};
                                   return load_balancing_loss(tape, input, f, 1.0);
                                 });
  for (size_t t = 0; t < 6; ++t) {
    EXPECT_NEAR(std::accumulate(result.grad.begin() + static_cast<int64_t>(5 * t),
                                result.grad.begin() + static_cast<int64_t>(5 * t + 5), 0.0),
                0.0, 1e-16);
  }
}

TEST_F(LossesTest, GradientsAgreeWithDifferences) {
  SequenceLayout layout = layout_of({3, 5});
  layout.counted[1] = 0;
  const std::vector<double> f = {0.5, 0.2, 0.2, 0.1};
  const std::vector<int32_t> chosen = {0, 1, 0, 2, 3, 1, 0, 3, 1, 2, 0, 1, 2, 0, 3, 2};
  for (const ScoreFunction scores : {ScoreFunction::softmax, ScoreFunction::sigmoid}) {
    const RoutedBatchOptions options = {.top_k = 2, .scores = scores, .valid_tokens = 20};
    expect_gradient(random_logits(8, 4), layout, options,
                    [&](Tape& tape, const RouterInput& input) {
                      return load_balancing_loss(tape, input, f, 1.0);
                    });
    expect_gradient(random_logits(8, 4), layout, options,
                    [&](Tape& tape, const RouterInput& input) {
                      return sequence_balancing_loss(tape, input, chosen, 1.0);
                    });
    expect_gradient(random_logits(8, 4), layout, options,
                    [&](Tape& tape, const RouterInput& input) { return z_loss(tape, input, 1.0); });
  }
}

TEST_F(LossesTest, SequenceLossOfOneSequenceIsTheBatchLoss) {
  const std::vector<int32_t> chosen = {0, 1, 1, 0, 0, 2, 2, 3};  // F1
  const Result sequence = evaluate(logits(f1_logits(), 4), layout_of({4}), {.top_k = 2},
                                   [&](Tape& tape, const RouterInput& input) {
                                     return sequence_balancing_loss(tape, input, chosen, 1.0);
                                   });
  EXPECT_NEAR(sequence.value, 1.184806, kPrinted);
}

TEST_F(LossesTest, SequenceLossSeesTheImbalanceThatABatchHides) {
  // Sequence A uses experts {0, 1}, B uses {2, 3}, with 0.8 of the probability each.
  std::vector<double> p = {0.4, 0.4, 0.1, 0.1, 0.1, 0.1, 0.4, 0.4};
  for (double& x : p) x = std::log(x);
  const std::vector<int32_t> chosen = {0, 1, 2, 3};
  const std::vector<double> uniform(4, 0.25);
  const RoutedBatchOptions options = {.top_k = 2};
  const Result sequence =
      evaluate(logits(p, 4), layout_of({1, 1}), options, [&](Tape& tape, const RouterInput& input) {
        return sequence_balancing_loss(tape, input, chosen, 1.0);
      });
  const Result batch =
      evaluate(logits(p, 4), layout_of({1, 1}), options, [&](Tape& tape, const RouterInput& input) {
        return load_balancing_loss(tape, input, uniform, 1.0);
      });
  EXPECT_NEAR(sequence.value, 1.6, 1e-15);
  EXPECT_NEAR(batch.value, 1.0, 1e-15);
}

TEST_F(LossesTest, SequenceWithoutCountedTokensAddsNothing) {
  SequenceLayout layout = layout_of({4, 4});
  std::fill(layout.counted.begin() + 4, layout.counted.end(), uint8_t{0});
  std::vector<double> z = f1_logits();
  const std::vector<double> once = z;
  z.insert(z.end(), once.begin(), once.end());
  const std::vector<int32_t> chosen = {0, 1, 1, 0, 0, 2, 2, 3, 0, 1, 1, 0, 0, 2, 2, 3};
  const Result result = evaluate(logits(z, 4), layout, {.top_k = 2, .global_sequences = 1},
                                 [&](Tape& tape, const RouterInput& input) {
                                   return sequence_balancing_loss(tape, input, chosen, 1.0);
                                 });
  EXPECT_NEAR(result.value, 1.184806, kPrinted);
  for (size_t i = 16; i < 32; ++i) EXPECT_EQ(result.grad[i], 0.0);
}

TEST_F(LossesTest, ZLossAgreesWithTheWorkedExample) {
  const auto loss = [](Tape& tape, const RouterInput& input) { return z_loss(tape, input, 1.0); };
  const Result result = evaluate(logits(f1_logits(), 4), layout_of({4}), {.top_k = 2}, loss);
  EXPECT_NEAR(result.value, 7.266053, kPrinted);
  expect_row(result.grad, 0, {0.785636, 0.289020, 0.106324, 0.039115});
  const std::vector<double> lse = {2.440190, 2.546006, 3.185182, 2.546006};
  for (size_t t = 0; t < 4; ++t) {
    double row = 0.0;
    for (size_t e = 0; e < 4; ++e) row += result.grad[4 * t + e];
    EXPECT_NEAR(row, 2.0 * lse[t] / 4.0, kPrinted);
  }
}

TEST_F(LossesTest, ZLossVanishesWhereTheSumOfExponentialsIsOne) {
  const double z = -std::log(4.0);
  const Result result =
      evaluate(logits(std::vector<double>(8, z), 4), layout_of({2}), {.top_k = 1},
               [](Tape& tape, const RouterInput& input) { return z_loss(tape, input, 1.0); });
  EXPECT_NEAR(result.value, 0.0, 1e-30);
}

TEST_F(LossesTest, MaskedTokensHaveNeitherLossNorGradient) {
  // F1 with a token in front that has no loss.
  std::vector<double> z = {5.0, -3.0, 1.0, 2.0};
  const auto f1 = f1_logits();
  z.insert(z.end(), f1.begin(), f1.end());
  SequenceLayout layout = layout_of({5});
  layout.counted[0] = 0;
  const auto check = [&](double expected, auto loss) {
    const Result result = evaluate(logits(z, 4), layout, {.top_k = 2}, loss);
    EXPECT_NEAR(result.value, expected, kPrinted);
    for (size_t e = 0; e < 4; ++e) EXPECT_EQ(result.grad[e], 0.0);
  };
  check(1.184806, [](Tape& tape, const RouterInput& input) {
    return load_balancing_loss(tape, input, kF1Fractions, 1.0);
  });
  check(7.266053, [](Tape& tape, const RouterInput& input) { return z_loss(tape, input, 1.0); });
  const std::vector<int32_t> chosen = {3, 3, 0, 1, 1, 0, 0, 2, 2, 3};
  check(1.184806, [&](Tape& tape, const RouterInput& input) {
    return sequence_balancing_loss(tape, input, chosen, 1.0);
  });
}

TEST_F(LossesTest, LossesShrinkWithTheShareOfTheGlobalBatch) {
  const RoutedBatchOptions quarter = {.top_k = 2, .valid_tokens = 16};
  const Result balance = evaluate(logits(f1_logits(), 4), layout_of({4}), quarter,
                                  [](Tape& tape, const RouterInput& input) {
                                    return load_balancing_loss(tape, input, kF1Fractions, 1.0);
                                  });
  EXPECT_NEAR(balance.value, 1.184806 / 4.0, kPrinted);
  const Result z =
      evaluate(logits(f1_logits(), 4), layout_of({4}), quarter,
               [](Tape& tape, const RouterInput& input) { return z_loss(tape, input, 1.0); });
  EXPECT_NEAR(z.value, 7.266053 / 4.0, kPrinted);
}

TEST_F(LossesTest, UnbiasedLoadIgnoresTheExecutedSelection) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, logits(f1_logits(), 4), layout_of({4}), {.top_k = 2});
  const auto balancer = testing::make_one("none", 4);
  Selection shifted = batch.route(*balancer);
  const std::vector<int32_t> own_choice = shifted.expert;
  shifted.expert.assign(8, 3);
  ChosenExperts chosen;
  EXPECT_THAT(chosen.of(LoadSource::executed, batch.input(), shifted),
              ElementsAreArray(shifted.expert));
  EXPECT_THAT(chosen.of(LoadSource::unbiased, batch.input(), shifted),
              ElementsAreArray(own_choice));
  EXPECT_THAT(chosen.of(LoadSource::automatic, batch.input(), shifted),
              ElementsAreArray(shifted.expert));
  shifted.shifted = true;
  EXPECT_THAT(chosen.of(LoadSource::automatic, batch.input(), shifted),
              ElementsAreArray(own_choice));
}

TEST_F(LossesTest, UnbiasedLoadGivesATokenAsManyExpertsAsItsRouter) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, logits(f1_logits(), 4), layout_of({4}), {.top_k = 3});
  // A router with a threshold: token t takes t experts at most 3.
  const auto choose = [&](std::span<const double> shift, Selection& selection) {
    choose_top_k(batch.router().scores, shift, 3, selection);
    for (size_t t = 0; t < 4; ++t) {
      for (size_t slot = t; slot < 3; ++slot) selection.expert[3 * t + slot] = kNoExpert;
    }
  };
  const RouterInput plain = batch.input();
  const RouterInput input{
      plain.router,       plain.layout,           plain.top_k,    plain.progress,
      plain.valid_tokens, plain.global_sequences, plain.training, choose};
  Selection shifted;
  choose(std::vector<double>{0.0, 0.0, 0.0, 9.0}, shifted);
  shifted.shifted = true;
  ChosenExperts chosen;
  EXPECT_THAT(chosen.of(LoadSource::automatic, input, shifted),
              ElementsAre(-1, -1, -1, 1, -1, -1, 0, 2, -1, 2, 3, 0));
}

}  // namespace
}  // namespace sluice
