#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "autograd/support/error.h"
#include "autograd/support/rng.h"
#include "tests/balance/routed_batch.h"
#include "tests/support/thread_ranks.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using testing::layout_of;
using testing::load_of;
using testing::make_one;
using testing::numbers_of;
using testing::RoutedBatch;
using testing::RoutedBatchOptions;
using testing::ScoreFunction;
using testing::state_of;

std::vector<double> thresholds_of(Balancer& balancer) {
  return numbers_of(state_of(balancer), "quantile_dynamic/thresholds");
}

std::unique_ptr<Balancer> make(const nlohmann::json& options, const BalancerSetup& setup) {
  const Tagged tagged = testing::method("quantile_dynamic", options);
  return make_balancer({&tagged, 1}, setup);
}

class QuantileDynamic : public ::testing::Test {
 protected:
  /// Four tokens for two experts.
  Tensor example() {
    return Tensor::of<double>(pool_, {4, 2}, {3.0, 2.0, 1.0, 0.5, -0.5, 0.25, -1.0, -0.125});
  }
  Selection route(Balancer& balancer, const Tensor& logits, const RoutedBatchOptions& options) {
    Tape tape(pool_);
    return RoutedBatch(tape, logits, layout_of({logits.dim(0)}), options).route(balancer);
  }
  Pool pool_;
};

TEST_F(QuantileDynamic, FirstThresholdsAreQuantilesOfNormalLogits) {
  // Phi^-1 of 1 - k / E = 3/4, 1/2, 15/16.
  const auto first = [](int64_t experts, int64_t top_k, double logit_std) {
    const auto balancer =
        make({}, {.layer = 0, .experts = experts, .top_k = top_k, .initial_logit_std = logit_std});
    return thresholds_of(*balancer);
  };
  for (const double beta : first(8, 2, 1.0)) EXPECT_NEAR(beta, 0.674490, 5e-7);
  for (const double beta : first(8, 2, 0.5)) EXPECT_NEAR(beta, 0.337245, 5e-7);
  for (const double beta : first(8, 4, 1.0)) EXPECT_NEAR(beta, 0.0, 1e-15);
  for (const double beta : first(16, 1, 1.0)) EXPECT_NEAR(beta, 1.534121, 5e-7);
  for (const double beta : first(4, 4, 1.0)) EXPECT_TRUE(std::isfinite(beta));
  const auto given = make({{"logit_std", 2.0}}, {.layer = 0, .experts = 8, .top_k = 2});
  EXPECT_NEAR(thresholds_of(*given)[0], 2.0 * 0.674490, 1e-6);
}

TEST_F(QuantileDynamic, FirstThresholdsGiveNormalLogitsKExpertsPerToken) {
  const auto balancer = make({}, {.layer = 0, .experts = 16, .top_k = 4, .initial_logit_std = 1.5});
  const RandomKey key{.seed = 3, .purpose = RandomPurpose::test, .layer = 0, .step = 0};
  std::vector<double> values;
  for (uint64_t i = 0; i < 2000 * 16; ++i) values.push_back(1.5 * normal(key, 0, i));
  const Selection selection = route(*balancer, Tensor::of<double>(pool_, {2000, 16}, values),
                                    {.top_k = 4, .training = false});
  const auto total = std::accumulate(selection.load.begin(), selection.load.end(), int64_t{0});
  // Standard deviation sqrt(16 * 3/16 / 2000) = 0.039 of the mean.
  EXPECT_NEAR(static_cast<double>(total) / 2000.0, 4.0, 0.2);
}

TEST_F(QuantileDynamic, GoesWhereTheLogitIsPastTheThreshold) {
  const auto balancer = make_one("quantile_dynamic", 2);
  EXPECT_THAT(thresholds_of(*balancer), ElementsAre(0.0, 0.0));  // k = 1 of 2
  // Both experts, both, the second, none.
  const Selection selection = route(*balancer, example(), {.top_k = 1});
  EXPECT_EQ(selection.top_k, 2);
  EXPECT_EQ(selection.expert,
            (std::vector<int32_t>{0, 1, 0, 1, 1, kNoExpert, kNoExpert, kNoExpert}));
  EXPECT_EQ(selection.load, (std::vector<int64_t>{2, 3}));
  // A logit at its threshold is not past it.
  const Tensor at = Tensor::of<double>(pool_, {1, 2}, {0.0, 0.0});
  EXPECT_EQ(route(*balancer, at, {.top_k = 1}).load, (std::vector<int64_t>{0, 0}));
}

TEST_F(QuantileDynamic, StepsTowardsTheQuantileOfEveryColumn) {
  const auto balancer = make_one("quantile_dynamic", 2);
  (void)route(*balancer, example(), {.top_k = 1});
  balancer->end_step({}, {});
  // C = 2: the third largest of the columns, -0.5 and 0.25.
  const auto first = thresholds_of(*balancer);
  EXPECT_NEAR(first[0], -0.05, 1e-15);
  EXPECT_NEAR(first[1], 0.025, 1e-15);
  (void)route(*balancer, example(), {.top_k = 1});
  balancer->end_step({}, {});
  EXPECT_NEAR(thresholds_of(*balancer)[0], -0.095, 1e-15);
  EXPECT_NEAR(thresholds_of(*balancer)[1], 0.0475, 1e-15);
  // At once, without momentum: every expert gets exactly its share of the batch.
  const auto jumping = make_one("quantile_dynamic", 2, {{"momentum", 0.0}});
  (void)route(*jumping, example(), {.top_k = 1});
  jumping->end_step({}, {});
  EXPECT_THAT(thresholds_of(*jumping), ElementsAre(-0.5, 0.25));
  EXPECT_EQ(route(*jumping, example(), {.top_k = 1}).load, (std::vector<int64_t>{2, 2}));
}

TEST_F(QuantileDynamic, EveryExpertReachesItsShareAndTokensDifferentNumbers) {
  constexpr int64_t kTokens = 512;
  constexpr int64_t kExperts = 8;
  const auto balancer = make({}, {.layer = 0, .experts = kExperts, .top_k = 2});
  // Half of the tokens are wanted by every expert more than the other half.
  Tensor z = SampleFactory(pool_, DType::f64, 3).uniform({kTokens, kExperts}, -1.0, 1.0);
  for (int64_t i = 0; i < z.numel(); ++i) {
    z.span<double>()[static_cast<size_t>(i)] +=
        0.4 * static_cast<double>(i % kExperts) + (i / kExperts % 2 == 0 ? 0.5 : 0.0);
  }
  for (int step = 0; step < 150; ++step) {
    (void)route(*balancer, z, {.top_k = 2});
    balancer->end_step({}, {});
  }
  const Selection selection = route(*balancer, z, {.top_k = 2, .training = false});
  for (const int64_t count : selection.load) EXPECT_NEAR(count, kTokens * 2 / kExperts, 1);
  std::vector<int64_t> hard_and_easy(2, 0);
  for (size_t slot = 0; slot < selection.expert.size(); ++slot) {
    if (selection.expert[slot] == kNoExpert) continue;
    ++hard_and_easy[slot / static_cast<size_t>(selection.top_k) % 2];
  }
  EXPECT_GT(hard_and_easy[0], 3 * hard_and_easy[1] / 2);
}

TEST_F(QuantileDynamic, AtMostMaxExpertsTakeAToken) {
  const nlohmann::json options = {{"max_experts", 2}, {"logit_std", 0.0}};
  const auto balancer = make(options, {.layer = 0, .experts = 4, .top_k = 1});
  const Tensor z = Tensor::of<double>(
      pool_, {3, 4}, {1.0, 3.0, 2.0, 4.0, 1.0, 1.0, 1.0, 1.0, -1.0, 5.0, 0.0, -2.0});
  const Selection selection = route(*balancer, z, {.top_k = 1});
  EXPECT_EQ(selection.top_k, 2);
  EXPECT_EQ(selection.expert, (std::vector<int32_t>{3, 1, 0, 1, 1, kNoExpert}));
}

TEST_F(QuantileDynamic, WeighsByTheScores) {
  const auto balancer = make_one("quantile_dynamic", 2);
  Tape tape(pool_);
  const RoutedBatch batch(tape, example(), layout_of({4}),
                          {.top_k = 1, .scores = ScoreFunction::sigmoid});
  const Selection selection = batch.route(*balancer);
  const Tensor weights = balancer->combine_weights(tape, batch.input(), selection);
  const auto sigmoid_of = [](double z) { return 1.0 / (1.0 + std::exp(-z)); };
  const std::vector<double> expected = {sigmoid_of(3.0),
                                        sigmoid_of(2.0),
                                        sigmoid_of(1.0),
                                        sigmoid_of(0.5),
                                        sigmoid_of(.25),
                                        0.0,
                                        0.0,
                                        0.0};
  for (size_t slot = 0; slot < expected.size(); ++slot) {
    EXPECT_NEAR(weights.span<double>()[slot], expected[slot], 1e-15);
  }
}

TEST_F(QuantileDynamic, LearnsFromAStepInWhichNoTokenIsPastAThreshold) {
  const auto balancer = make({{"logit_std", 100.0}}, {.layer = 0, .experts = 4, .top_k = 1});
  const Tensor z = SampleFactory(pool_, DType::f64, 3).uniform({20, 4}, -1.0, 1.0);
  const Selection selection = route(*balancer, z, {.top_k = 1});
  EXPECT_EQ(selection.load, std::vector<int64_t>(4, 0));
  EXPECT_EQ(selection.expert, std::vector<int32_t>(20, kNoExpert));
  const double before = thresholds_of(*balancer)[0];
  balancer->end_step(load_of(std::vector<int64_t>(4, 0)), {});
  EXPECT_LT(thresholds_of(*balancer)[0], 0.91 * before);
}

TEST_F(QuantileDynamic, TokensWithoutALossAndNanSetNoThreshold) {
  const auto plain = make_one("quantile_dynamic", 2);
  (void)route(*plain, example(), {.top_k = 1});
  plain->end_step({}, {});
  const auto masked = make_one("quantile_dynamic", 2);
  const Tensor four = example();
  std::vector<double> values(four.span<double>().begin(), four.span<double>().end());
  values.insert(values.end(), {9.0, 9.0, 8.0, 8.0});
  SequenceLayout layout = layout_of({6});
  layout.counted[4] = layout.counted[5] = 0;
  Tape tape(pool_);
  (void)RoutedBatch(tape, Tensor::of<double>(pool_, {6, 2}, values), layout, {.top_k = 1})
      .route(*masked);
  const double nan = std::numeric_limits<double>::quiet_NaN();
  (void)route(*masked, Tensor::of<double>(pool_, {2, 2}, {nan, nan, nan, nan}), {.top_k = 1});
  masked->end_step({}, {});
  EXPECT_EQ(thresholds_of(*masked), thresholds_of(*plain));
}

TEST_F(QuantileDynamic, TakesEveryExpertWhereTopKIsAllOfThem) {
  const auto balancer = make({}, {.layer = 0, .experts = 2, .top_k = 2});
  const StateDict before = state_of(*balancer);
  EXPECT_EQ(route(*balancer, example(), {.top_k = 2}).load, (std::vector<int64_t>{4, 4}));
  balancer->end_step(load_of({4, 4}, 2), {});
  EXPECT_EQ(state_of(*balancer), before);
}

TEST_F(QuantileDynamic, PoolsMicroBatchesAndRanksByTheirTokens) {
  const auto batch_of = [](Pool& pool, int rank) {
    return SampleFactory(pool, DType::f64, static_cast<uint64_t>(rank + 1))
        .uniform({rank == 0 ? 10 : 30, 4}, -1.0, 1.0);
  };
  const auto single = make_one("quantile_dynamic", 4);
  for (const int rank : {0, 1}) (void)route(*single, batch_of(pool_, rank), {.top_k = 1});
  single->end_step({}, {});
  const auto expected = thresholds_of(*single);
  testing::ThreadRanks::run(3, [&](Communicator& communicator) {
    Pool pool;
    Tape tape(pool);
    const auto balancer = make_one("quantile_dynamic", 4);
    // The third rank has nothing.
    if (communicator.rank() < 2) {
      const Tensor z = batch_of(pool, communicator.rank());
      (void)RoutedBatch(tape, z, layout_of({z.dim(0)}), {.top_k = 1}).route(*balancer);
    }
    balancer->reduce(communicator);
    balancer->end_step({}, {});
    EXPECT_EQ(thresholds_of(*balancer), expected);
  });
}

TEST_F(QuantileDynamic, RefusesALimitBelowTheMean) {
  try {
    (void)make({{"max_experts", 1}}, {.layer = 0, .experts = 4, .top_k = 2});
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_THAT(error.what(),
                ::testing::HasSubstr("balance: quantile_dynamic.max_experts: found 1, allowed auto "
                                     "or at least 2 (model.experts.top_k, the mean)"));
  }
}

}  // namespace
}  // namespace sluice
