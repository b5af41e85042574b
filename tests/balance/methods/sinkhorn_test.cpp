#include <gtest/gtest.h>

#include <cmath>

#include "tests/balance/chosen_weights.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::make_one;
using testing::max_vio;
using testing::RoutedBatch;
using testing::skewed_logits;
using testing::weights_of;

class Sinkhorn : public ::testing::Test {
 protected:
  Tensor example() { return Tensor::of<double>(pool_, {2, 2}, {2.0, 1.0, 1.5, 1.0}); }
  Pool pool_;
};

TEST_F(Sinkhorn, BalancesTheWorkedExampleInTrainingOnly) {
  Tape tape(pool_);
  const auto balancer = make_one("sinkhorn", 2);
  const RoutedBatch training(tape, example(), layout_of({2}), {.top_k = 1});
  EXPECT_EQ(training.route(*balancer).expert, (std::vector<int32_t>{0, 1}));
  const RoutedBatch evaluation(tape, example(), layout_of({2}), {.top_k = 1, .training = false});
  EXPECT_EQ(evaluation.route(*balancer).expert, (std::vector<int32_t>{0, 0}));
}

TEST_F(Sinkhorn, WeighsWithTheSigmoidForOneExpertAndTheWholeSoftmaxForMore) {
  Tape tape(pool_);
  const auto balancer = make_one("sinkhorn", 2);
  const RoutedBatch one(tape, example(), layout_of({2}), {.top_k = 1});
  const auto single = weights_of(tape, one, *balancer, one.route(*balancer));
  EXPECT_NEAR(single[0], 1.0 / (1.0 + std::exp(-2.0)), 1e-15);
  EXPECT_NEAR(single[1], 1.0 / (1.0 + std::exp(-1.0)), 1e-15);

  // Fixture F1, row 0, is (0.643914 0.236883 0.087144 0.032059): not renormalised.
  const Tensor f1 = Tensor::of<double>(pool_, {4, 4}, testing::f1_logits());
  const auto wide = make_one("sinkhorn", 4);
  const RoutedBatch two(tape, f1, layout_of({4}), {.top_k = 2, .training = false});
  const auto weights = weights_of(tape, two, *wide, two.route(*wide));
  EXPECT_NEAR(weights[0], 0.643914, 6e-7);
  EXPECT_NEAR(weights[1], 0.236883, 6e-7);
}

TEST_F(Sinkhorn, HasTheGradientOfItsWeights) {
  for (const int64_t top_k : {1, 2}) {
    const auto balancer = make_one("sinkhorn", 5);
    testing::expect_weight_gradient(pool_, skewed_logits(pool_, 12, 5), layout_of({12}),
                                    {.top_k = top_k}, *balancer);
  }
}

TEST_F(Sinkhorn, SpreadsTheLoadBetterThanTheGreedyChoice) {
  Tape tape(pool_);
  for (const int64_t top_k : {1, 2}) {
    const RoutedBatch batch(tape, skewed_logits(pool_, 512, 8), layout_of({512}), {.top_k = top_k});
    const auto balancer = make_one("sinkhorn", 8);
    const auto greedy = make_one("none", 8);
    EXPECT_LT(max_vio(batch.route(*balancer)), 0.4 * max_vio(batch.route(*greedy)));
  }
}

TEST_F(Sinkhorn, LeavesTokensWithoutALossOutOfThePlan) {
  Tape tape(pool_);
  const SequenceLayout layout = testing::with_uncounted(layout_of({60}));
  const Tensor z = skewed_logits(pool_, 60, 4);
  const Tensor counted = testing::counted_rows(pool_, z, layout);
  const auto balancer = make_one("sinkhorn", 4);
  const RoutedBatch all(tape, z, layout, {.top_k = 2});
  const RoutedBatch some(tape, counted, layout_of({counted.dim(0)}), {.top_k = 2});
  testing::expect_same_counted_routes(all.route(*balancer), some.route(*balancer), layout);
}

TEST_F(Sinkhorn, LooksAtNoOtherTokenInEvaluation) {
  Tape tape(pool_);
  const auto balancer = make_one("sinkhorn", 8);
  EXPECT_TRUE(balancer->traits().batch_dependent);
  const Tensor z = skewed_logits(pool_, 40, 8);
  const RoutedBatch batch(tape, z, layout_of({40}), {.top_k = 2, .training = false});
  const auto greedy = make_one("none", 8);
  EXPECT_EQ(batch.route(*balancer).expert, batch.route(*greedy).expert);
}

}  // namespace
}  // namespace sluice
