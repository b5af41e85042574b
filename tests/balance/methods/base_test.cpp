#include <gtest/gtest.h>

#include <cmath>

#include "tests/balance/chosen_weights.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::make_one;
using testing::RoutedBatch;
using testing::skewed_logits;
using testing::weights_of;

class BaseLayer : public ::testing::Test {
 protected:
  Tensor example() {
    return Tensor::of<double>(pool_, {4, 2}, {5.0, 1.0, 4.0, 3.0, 3.5, 3.0, 1.0, 0.5});
  }
  Pool pool_;
};

TEST_F(BaseLayer, AssignsTheWorkedExampleAndIsGreedyInEvaluation) {
  Tape tape(pool_);
  const auto balancer = make_one("base", 2);
  const RoutedBatch training(tape, example(), layout_of({4}), {.top_k = 1});
  EXPECT_EQ(training.route(*balancer).expert, (std::vector<int32_t>{0, 0, 1, 1}));
  const RoutedBatch evaluation(tape, example(), layout_of({4}), {.top_k = 1, .training = false});
  EXPECT_EQ(evaluation.route(*balancer).expert, (std::vector<int32_t>{0, 0, 0, 0}));
}

TEST_F(BaseLayer, GivesEveryExpertTheSameNumberOfTokens) {
  Tape tape(pool_);
  const auto balancer = make_one("base", 8);
  for (const int64_t top_k : {1, 2}) {
    const RoutedBatch batch(tape, skewed_logits(pool_, 256, 8), layout_of({100, 156}),
                            {.top_k = top_k});
    EXPECT_EQ(batch.route(*balancer).load, std::vector<int64_t>(8, 32 * top_k));
  }
  const RoutedBatch uneven(tape, skewed_logits(pool_, 27, 8), layout_of({27}), {.top_k = 1});
  for (const int64_t load : uneven.route(*balancer).load) {
    EXPECT_GE(load, 3);
    EXPECT_LE(load, 4);
  }
}

TEST_F(BaseLayer, WeighsWithTheSigmoidOfTheAffinity) {
  Tape tape(pool_);
  const auto balancer = make_one("base", 2);
  for (const bool training : {true, false}) {
    const RoutedBatch batch(tape, example(), layout_of({4}), {.top_k = 1, .training = training});
    const auto weights = weights_of(tape, batch, *balancer, batch.route(*balancer));
    EXPECT_NEAR(weights[0], 1.0 / (1.0 + std::exp(-5.0)), 1e-15);
    EXPECT_NEAR(weights[3], 1.0 / (1.0 + std::exp(training ? -0.5 : -1.0)), 1e-15);
  }
}

TEST_F(BaseLayer, HasTheGradientOfItsWeights) {
  for (const int64_t top_k : {1, 2}) {
    const auto balancer = make_one("base", 4);
    testing::expect_weight_gradient(pool_, skewed_logits(pool_, 12, 4), layout_of({12}),
                                    {.top_k = top_k}, *balancer);
  }
}

TEST_F(BaseLayer, GivesTokensWithoutALossNoSeat) {
  Tape tape(pool_);
  const SequenceLayout layout = testing::with_uncounted(layout_of({60}));
  const Tensor z = skewed_logits(pool_, 60, 4);
  const Tensor counted = testing::counted_rows(pool_, z, layout);
  const auto balancer = make_one("base", 4);
  const RoutedBatch all(tape, z, layout, {.top_k = 2});
  const RoutedBatch some(tape, counted, layout_of({counted.dim(0)}), {.top_k = 2});
  const Selection selection = all.route(*balancer);
  testing::expect_same_counted_routes(selection, some.route(*balancer), layout);
  EXPECT_EQ(selection.load, std::vector<int64_t>(4, 20));
}

TEST_F(BaseLayer, SaysThatItsRoutesDependOnTheBatch) {
  EXPECT_TRUE(make_one("base", 3)->traits().batch_dependent);
}

}  // namespace
}  // namespace sluice
