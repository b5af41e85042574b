#include "balance/entropy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::RoutedBatch;
using testing::ScoreFunction;

constexpr double kPrinted = 6e-7;

class Entropy : public ::testing::Test {
 protected:
  Tensor matrix(int64_t rows, const std::vector<double>& values) {
    return Tensor::of<double>(pool_, {rows, static_cast<int64_t>(values.size()) / rows}, values);
  }
  struct Entropies {
    double token_mean;
    double marginal;
  };
  Entropies of(const Tensor& z, const SequenceLayout& layout,
               ScoreFunction scores = ScoreFunction::softmax) {
    Tape tape(pool_);
    const RoutedBatch batch(tape, z, layout, {.scores = scores});
    const double share = 1.0 / static_cast<double>(layout.counted_tokens());
    return {token_entropy_sum(tape, batch.input(), share).item(),
            marginal_entropy(tape, batch.input()).item()};
  }
  Pool pool_;
};

TEST_F(Entropy, AgreesWithTheWorkedExample) {
  const std::vector<double> of_tokens = {0.947537, 1.109767, 0.595087, 1.109767};
  for (size_t t = 0; t < 4; ++t) {
    SequenceLayout layout = layout_of({4});
    std::fill(layout.counted.begin(), layout.counted.end(), uint8_t{0});
    layout.counted[t] = 1;
    EXPECT_NEAR(of(matrix(4, f1_logits()), layout).token_mean, of_tokens[t], kPrinted);
  }
  const Entropies all = of(matrix(4, f1_logits()), layout_of({4}));
  EXPECT_NEAR(all.token_mean, 0.940539, kPrinted);
  EXPECT_NEAR(all.marginal, 1.243992, kPrinted);
}

TEST_F(Entropy, OfOneExpertIsZeroAndOfAllEquallyIsTheLogarithmOfTheirNumber) {
  const Entropies sure =
      of(matrix(2, {1.0, 0.0, 0.0, 1.0, 0.0, 0.0}), layout_of({2}), ScoreFunction::identity);
  EXPECT_EQ(sure.token_mean, 0.0);
  EXPECT_NEAR(sure.marginal, 0.0, 2e-8);
  const Entropies unsure =
      of(matrix(2, std::vector<double>(8, 0.25)), layout_of({2}), ScoreFunction::identity);
  EXPECT_NEAR(unsure.token_mean, std::log(4.0), 1e-15);
  EXPECT_NEAR(unsure.marginal, std::log(4.0), 1e-7);
}

TEST_F(Entropy, OfTheMeanIsAtLeastTheMeanOfThose) {
  for (const uint64_t seed : {1, 2, 3, 4}) {
    SampleFactory factory(pool_, DType::f64, seed);
    const Entropies entropies = of(factory.uniform({9, 6}, -4.0, 4.0), layout_of({9}));
    EXPECT_GE(entropies.token_mean, 0.0);
    EXPECT_GE(entropies.marginal, entropies.token_mean);
    EXPECT_LE(entropies.marginal, std::log(6.0));
  }
}

TEST_F(Entropy, HasTheGradientsOfTheClosedForm) {
  Tape tape(pool_);
  const Tensor z = tape.input(matrix(4, f1_logits()));
  const RoutedBatch batch(tape, z, layout_of({4}), {.top_k = 2});
  const Tensor p = batch.router().probabilities;
  const std::vector<double> values(p.span<double>().begin(), p.span<double>().end());
  tape.backward(token_entropy_sum(tape, batch.input(), 1.0));
  const Tensor grad = tape.gradient(z);
  for (size_t t = 0; t < 4; ++t) {
    double entropy = 0.0;
    for (size_t e = 0; e < 4; ++e) entropy -= values[4 * t + e] * std::log(values[4 * t + e]);
    for (size_t e = 0; e < 4; ++e) {
      const double expected = -values[4 * t + e] * (std::log(values[4 * t + e]) + entropy);
      EXPECT_NEAR(grad.span<double>()[4 * t + e], expected, 1e-14);
    }
  }
}

TEST_F(Entropy, StaysFiniteInSinglePrecisionWhereProbabilitiesUnderflow) {
  const std::vector<float> logits = {0.0F, -300.0F, 1.0F, 0.5F, -300.0F, 1.0F};
  Tape tape(pool_);
  const Tensor z = tape.input(Tensor::of<float>(pool_, {2, 3}, logits));
  const RoutedBatch batch(tape, z, layout_of({2}), {});
  const Tensor both =
      add(tape, token_entropy_sum(tape, batch.input(), 1.0), marginal_entropy(tape, batch.input()));
  EXPECT_TRUE(std::isfinite(both.item()));
  tape.backward(both);
  const Tensor grad = tape.gradient(z);
  for (const float g : grad.span<float>()) EXPECT_TRUE(std::isfinite(g));
}

}  // namespace
}  // namespace sluice
