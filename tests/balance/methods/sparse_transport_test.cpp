#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "autograd/ops/reduce.h"
#include "tests/balance/chosen_weights.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::make_one;
using testing::RoutedBatch;
using testing::skewed_logits;
using testing::weights_of;

class SparseTransportRouting : public ::testing::Test {
 protected:
  Pool pool_;
};

TEST_F(SparseTransportRouting, GivesNoExpertMoreThanItsCapacity) {
  Tape tape(pool_);
  for (const double factor : {0.75, 1.0, 1.5}) {
    const auto balancer = make_one("sparse_transport", 8, {{"capacity_factor", factor}});
    const RoutedBatch batch(tape, skewed_logits(pool_, 128, 8), layout_of({128}), {.top_k = 2});
    const Selection selection = batch.route(*balancer);
    for (const int64_t load : selection.load) {
      EXPECT_GT(load, 0);
      EXPECT_LE(load, std::llround(factor * 32));
    }
    EXPECT_GE(selection.top_k, 2);
  }
}

TEST_F(SparseTransportRouting, WeighsWithTheNormalisedPlan) {
  Tape tape(pool_);
  const auto balancer = make_one("sparse_transport", 4, {{"gamma", 2.0}});
  const RoutedBatch batch(tape, skewed_logits(pool_, 40, 4), layout_of({40}), {.top_k = 2});
  const Selection selection = batch.route(*balancer);
  const auto weights = weights_of(tape, batch, *balancer, selection);
  ASSERT_EQ(weights.size(), selection.expert.size());
  const auto slots = static_cast<size_t>(selection.top_k);
  for (size_t t = 0; t < 40; ++t) {
    double sum = 0.0;
    bool has_expert = false;
    for (size_t slot = t * slots; slot < (t + 1) * slots; ++slot) {
      has_expert |= selection.expert[slot] != kNoExpert;
      if (selection.expert[slot] == kNoExpert) {
        EXPECT_EQ(weights[slot], 0.0);
      }
      sum += weights[slot];
    }
    EXPECT_NEAR(sum, has_expert ? 1.0 : 0.0, 1e-14);
  }
}

TEST_F(SparseTransportRouting, HasTheGradientOfThePlanAtConstantPrices) {
  // w = P / S with dP = dz / gamma: dw_i / dz_j = ([i = j] - w_i) / (gamma S).
  Tape tape(pool_);
  constexpr double kGamma = 1.5;
  const auto balancer = make_one("sparse_transport", 4, {{"gamma", kGamma}});
  const Tensor z = tape.input(skewed_logits(pool_, 24, 4));
  const RoutedBatch batch(tape, z, layout_of({24}), {.top_k = 2});
  const Selection selection = batch.route(*balancer);
  const Tensor weights = balancer->combine_weights(tape, batch.input(), selection);
  SampleFactory factory(pool_, DType::f64);
  const Tensor out = factory.uniform(weights.shape(), -1.0, 1.0);
  const std::vector<double> g(out.span<double>().begin(), out.span<double>().end());
  const std::vector<double> w(weights.span<double>().begin(), weights.span<double>().end());
  tape.backward(sum(tape, mul(tape, weights, out)));
  const Tensor grad = tape.gradient(z);
  std::vector<double> expected(24 * 4, 0.0);
  const auto slots = static_cast<size_t>(selection.top_k);
  for (size_t t = 0; t < 24; ++t) {
    double mass = 0.0;
    double mean = 0.0;
    for (size_t slot = t * slots; slot < (t + 1) * slots; ++slot) {
      mass += selection.plan[slot];
      mean += w[slot] * g[slot];
    }
    for (size_t slot = t * slots; slot < (t + 1) * slots; ++slot) {
      const int32_t expert = selection.expert[slot];
      if (expert == kNoExpert) continue;
      expected[t * 4 + static_cast<size_t>(expert)] = (g[slot] - mean) / (kGamma * mass);
    }
  }
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(grad.span<double>()[i], expected[i], 1e-12 * (1.0 + std::abs(expected[i])));
  }
}

TEST_F(SparseTransportRouting, HasConstantWeightsWhenAsked) {
  Tape tape(pool_);
  const auto balancer = make_one("sparse_transport", 4, {{"weights", "constant"}});
  const Tensor z = tape.input(skewed_logits(pool_, 24, 4));
  const RoutedBatch batch(tape, z, layout_of({24}), {.top_k = 2});
  const Selection selection = batch.route(*balancer);
  EXPECT_FALSE(tape.requires_grad(balancer->combine_weights(tape, batch.input(), selection)));
}

TEST_F(SparseTransportRouting, LeavesTokensWithoutALossOutOfTheProblem) {
  Tape tape(pool_);
  const SequenceLayout layout = testing::with_uncounted(layout_of({60}));
  const Tensor z = skewed_logits(pool_, 60, 4);
  const Tensor counted = testing::counted_rows(pool_, z, layout);
  const auto balancer = make_one("sparse_transport", 4);
  const RoutedBatch all(tape, z, layout, {.top_k = 2});
  const RoutedBatch some(tape, counted, layout_of({counted.dim(0)}), {.top_k = 2});
  const Selection selection = all.route(*balancer);
  testing::expect_same_counted_routes(selection, some.route(*balancer), layout);
  // They always get somewhere.
  for (int64_t t = 0; t < 60; t += 3) {
    EXPECT_NE(selection.expert[static_cast<size_t>(t * selection.top_k)], kNoExpert);
  }
}

TEST_F(SparseTransportRouting, IsTheRouterInEvaluationAndWhereLogitsAreNotFinite) {
  Tape tape(pool_);
  const auto balancer = make_one("sparse_transport", 4);
  const auto plain = make_one("none", 4);
  EXPECT_TRUE(balancer->traits().batch_dependent);
  EXPECT_TRUE(balancer->traits().varies_k);
  Tensor z = skewed_logits(pool_, 20, 4);
  const RoutedBatch evaluation(tape, z, layout_of({20}), {.top_k = 2, .training = false});
  const Selection selection = evaluation.route(*balancer);
  EXPECT_EQ(selection, evaluation.route(*plain));
  EXPECT_TRUE(weights_of(tape, evaluation, *balancer, selection).empty());
  z.data<double>()[5] = std::numeric_limits<double>::infinity();
  const RoutedBatch broken(tape, z, layout_of({20}), {.top_k = 2});
  EXPECT_EQ(broken.route(*balancer).expert.size(), 40U);
}

}  // namespace
}  // namespace sluice
