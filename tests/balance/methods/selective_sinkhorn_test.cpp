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

constexpr double kPrinted = 6e-7;

class SelectiveSinkhorn : public ::testing::Test {
 protected:
  /// Converged, always by the plan.
  static nlohmann::json planned(double regularisation = 0.5) {
    return {{"probability", 1.0},
            {"regularisation", regularisation},
            {"tolerance", 1e-12},
            {"max_iterations", 10000}};
  }
  Pool pool_;
};

TEST_F(SelectiveSinkhorn, SolvesTheWorkedExamples) {
  Tape tape(pool_);
  const auto two = make_one("selective_sinkhorn", 2, planned());
  const Tensor c = Tensor::of<double>(pool_, {2, 2}, {.95, .05, .90, .10});
  const RoutedBatch small(tape, c, layout_of({2}), {.top_k = 1});
  EXPECT_EQ(small.route(*two).expert, (std::vector<int32_t>{0, 1}));

  const auto three = make_one("selective_sinkhorn", 3, planned());
  const Tensor d = Tensor::of<double>(pool_, {3, 3}, {2, 1, 0, 1.5, 1, 0, 1.2, .8, .6});
  const RoutedBatch batch(tape, d, layout_of({3}), {.top_k = 1});
  EXPECT_EQ(batch.route(*three).load, (std::vector<int64_t>{1, 1, 1}));
  // All three experts: the weights are the plan itself.
  const RoutedBatch all(tape, d, layout_of({3}), {.top_k = 3});
  const auto weights = weights_of(tape, all, *three, all.route(*three));
  const std::vector<double> best_first = {.551460, .297566, .150973, .456803, .311433,
                                          .231764, .617263, .245630, .137107};
  for (size_t i = 0; i < 9; ++i) EXPECT_NEAR(weights[i], best_first[i], kPrinted);
  // Two of them: the plan, normalised.
  const RoutedBatch pair(tape, d, layout_of({3}), {.top_k = 2});
  const auto of_pair = weights_of(tape, pair, *three, pair.route(*three));
  EXPECT_NEAR(of_pair[0], .551460 / (.551460 + .297566), 2e-6);
  EXPECT_NEAR(of_pair[0] + of_pair[1], 1.0, 1e-15);
}

TEST_F(SelectiveSinkhorn, TakesTheSoftmaxAsCostWhenAsked) {
  Tape tape(pool_);
  // Logits whose softmax are the rows of the first example.
  const Tensor z = Tensor::of<double>(pool_, {2, 2},
                                      {std::log(.95), std::log(.05), std::log(.90), std::log(.10)});
  auto options = planned();
  options["cost"] = "softmax";
  const auto balancer = make_one("selective_sinkhorn", 2, options);
  const RoutedBatch batch(tape, z, layout_of({2}), {.top_k = 2});
  const auto weights = weights_of(tape, batch, *balancer, batch.route(*balancer));
  for (const size_t best : {0U, 2U}) EXPECT_NEAR(weights[best], .524979, kPrinted);
}

TEST_F(SelectiveSinkhorn, IsThePlainRouterWithoutPlanAndNoise) {
  Tape tape(pool_);
  const auto balancer = make_one("selective_sinkhorn", 8, {{"probability", 0.0}, {"noise", 0.0}});
  const auto plain = make_one("none", 8);
  const RoutedBatch batch(tape, skewed_logits(pool_, 64, 8), layout_of({64}), {.top_k = 2});
  const Selection selection = batch.route(*balancer);
  EXPECT_EQ(selection, batch.route(*plain));
  EXPECT_TRUE(weights_of(tape, batch, *balancer, selection).empty());
}

TEST_F(SelectiveSinkhorn, NeverPlansInEvaluation) {
  Tape tape(pool_);
  const auto balancer = make_one("selective_sinkhorn", 8, planned());
  const auto plain = make_one("none", 8);
  const RoutedBatch batch(tape, skewed_logits(pool_, 64, 8), layout_of({64}),
                          {.top_k = 2, .training = false});
  EXPECT_EQ(batch.route(*balancer), batch.route(*plain));
}

TEST_F(SelectiveSinkhorn, RoutesAStepAlikeWhenItIsReplayed) {
  Tape tape(pool_);
  const nlohmann::json options = {{"probability", 0.5}, {"noise", 1.0}};
  const auto first = make_one("selective_sinkhorn", 8, options);
  const auto second = make_one("selective_sinkhorn", 8, options);
  int planned_steps = 0;
  for (int64_t step = 0; step < 40; ++step) {
    const RoutedBatch batch(tape, skewed_logits(pool_, 32, 8), layout_of({20, 12}),
                            {.top_k = 2, .progress = {.step = step}});
    const Selection selection = batch.route(*first);
    EXPECT_EQ(selection, batch.route(*first));
    EXPECT_EQ(selection, batch.route(*second));
    planned_steps += selection.plan.empty() ? 0 : 1;
  }
  // 20 expected, standard deviation 3.2.
  EXPECT_GT(planned_steps, 8);
  EXPECT_LT(planned_steps, 32);
}

TEST_F(SelectiveSinkhorn, NoiseFollowsTheSampleWhateverTheMicroBatch) {
  Tape tape(pool_);
  const auto balancer = make_one("selective_sinkhorn", 8, {{"probability", 0.0}, {"noise", 2.0}});
  const Tensor z = skewed_logits(pool_, 30, 8);
  const RoutedBatch whole(tape, z, layout_of({10, 20}), {.top_k = 1});
  const Selection together = whole.route(*balancer);
  SequenceLayout second = layout_of({20});
  second.global_samples = {1};
  const Tensor rest = Tensor::of<double>(pool_, {20, 8}, z.span<double>().subspan(80));
  const RoutedBatch alone(tape, rest, second, {.top_k = 1});
  const auto expected = std::span(together.expert).subspan(10);
  EXPECT_THAT(alone.route(*balancer).expert, ::testing::ElementsAreArray(expected));
  const auto plain = make_one("none", 8);
  EXPECT_NE(together.expert, whole.route(*plain).expert);
}

TEST_F(SelectiveSinkhorn, BalancesTheStepsWithAPlan) {
  Tape tape(pool_);
  const auto balancer = make_one("selective_sinkhorn", 8, {{"probability", 1.0}});
  const auto plain = make_one("none", 8);
  const RoutedBatch batch(tape, skewed_logits(pool_, 512, 8), layout_of({512}), {.top_k = 2});
  EXPECT_LT(testing::max_vio(batch.route(*balancer)), 0.4 * testing::max_vio(batch.route(*plain)));
}

TEST_F(SelectiveSinkhorn, LeavesTokensWithoutALossOutOfTheMarginals) {
  Tape tape(pool_);
  const SequenceLayout layout = testing::with_uncounted(layout_of({60}));
  const Tensor z = skewed_logits(pool_, 60, 4);
  const Tensor counted = testing::counted_rows(pool_, z, layout);
  const auto balancer = make_one("selective_sinkhorn", 4, planned());
  const RoutedBatch all(tape, z, layout, {.top_k = 2});
  const RoutedBatch some(tape, counted, layout_of({counted.dim(0)}), {.top_k = 2});
  const Selection selection = all.route(*balancer);
  const Selection alone = some.route(*balancer);
  testing::expect_same_counted_routes(selection, alone, layout);
  EXPECT_EQ(selection.plan, alone.plan);
}

TEST_F(SelectiveSinkhorn, DifferentiatesTheLastIterationWhenAsked) {
  for (const std::string cost : {"linear", "softmax"}) {
    auto options = planned();
    options["gradient"] = "last_iteration";
    options["cost"] = cost;
    const auto balancer = make_one("selective_sinkhorn", 5, options);
    testing::expect_weight_gradient(pool_, skewed_logits(pool_, 12, 5), layout_of({12}),
                                    {.top_k = 2}, *balancer);
  }
}

TEST_F(SelectiveSinkhorn, GivesTheRouterNoGradientInAStepWithAPlan) {
  Tape tape(pool_);
  const Tensor z = tape.input(skewed_logits(pool_, 12, 5));
  const auto balancer = make_one("selective_sinkhorn", 5, planned());
  const RoutedBatch batch(tape, z, layout_of({12}), {.top_k = 2});
  const Selection selection = batch.route(*balancer);
  EXPECT_FALSE(tape.requires_grad(balancer->combine_weights(tape, batch.input(), selection)));
}

}  // namespace
}  // namespace sluice
