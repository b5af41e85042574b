#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::load_of;
using testing::make_one;
using testing::numbers_of;
using testing::RoutedBatch;
using testing::ScoreFunction;
using testing::state_of;

std::vector<double> bias_of(Balancer& balancer) {
  return numbers_of(state_of(balancer), "loss_free_bias/bias");
}

class LossFreeBias : public ::testing::Test {
 protected:
  /// D(b) = sum over tokens of the largest s + b, less the even load 2 times the sum of b.
  double dual_value(const std::vector<double>& bias) {
    const Tensor scores = example();
    double value = 0.0;
    for (int64_t t = 0; t < 6; ++t) {
      const double* row = scores.data<double>() + 3 * t;
      value += std::max({row[0] + bias[0], row[1] + bias[1], row[2] + bias[2]});
    }
    return value - 2.0 * (bias[0] + bias[1] + bias[2]);
  }
  /// Six tokens whose greedy load is (5, 0, 1), in units of 1/20.
  Tensor example() {
    const std::vector<double> scores = {14, 4, 2, 12, 6, 2, 11, 3, 6, 10, 8, 2, 9, 7, 4, 4, 6, 10};
    return Tensor::of<double>(pool_, {6, 3}, scores);
  }
  /// Of the example in four steps.
  std::vector<std::vector<int64_t>> loads_of(Balancer& balancer) {
    Tape tape(pool_);
    const RoutedBatch batch(tape, example(), layout_of({6}),
                            {.top_k = 1, .scores = ScoreFunction::identity});
    std::vector<std::vector<int64_t>> loads;
    for (int iteration = 0; iteration < 4; ++iteration) {
      const Selection selection = batch.route(balancer);
      loads.push_back(selection.load);
      balancer.end_step(load_of(selection, batch.layout()), {});
    }
    return loads;
  }
  Pool pool_;
};

TEST_F(LossFreeBias, SignRuleMovesEveryBiasByTheRate) {
  const auto balancer = make_one("loss_free_bias", 4, {{"rate", 0.001}});
  balancer->end_step(load_of({4, 3, 1, 0}), {});
  EXPECT_EQ(bias_of(*balancer), (std::vector<double>{-0.001, -0.001, 0.001, 0.001}));
}

TEST_F(LossFreeBias, ProportionalRuleMovesByTheRelativeError) {
  const auto balancer =
      make_one("loss_free_bias", 4, {{"rate", 0.001}, {"update", "proportional"}});
  balancer->end_step(load_of({4, 3, 1, 0}), {});
  EXPECT_EQ(bias_of(*balancer), (std::vector<double>{-0.001, -0.0005, 0.0005, 0.001}));
}

TEST_F(LossFreeBias, NormalisedRuleMovesByTheRateInRootMeanSquare) {
  const auto balancer = make_one("loss_free_bias", 4, {{"rate", 0.001}, {"update", "normalised"}});
  balancer->end_step(load_of({4, 3, 1, 0}), {});
  // Errors (-2, -1, 1, 2), whose root mean square is sqrt(5 / 2).
  const auto bias = bias_of(*balancer);
  const std::vector<double> expected = {-2.0, -1.0, 1.0, 2.0};
  double squares = 0.0;
  for (size_t e = 0; e < 4; ++e) {
    EXPECT_NEAR(bias[e], 0.001 * expected[e] / std::sqrt(2.5), 1e-18);
    squares += bias[e] * bias[e];
  }
  EXPECT_NEAR(std::sqrt(squares / 4.0), 0.001, 1e-18);
  const StateDict before = state_of(*balancer);
  balancer->end_step(load_of({2, 2, 2, 2}), {});
  EXPECT_EQ(state_of(*balancer), before);
}

TEST_F(LossFreeBias, LeavesTheBiasAtTheMeanLoadAlone) {
  const auto balancer = make_one("loss_free_bias", 3, {{"rate", 0.5}});
  balancer->end_step(load_of({3, 2, 1}), {});
  EXPECT_EQ(bias_of(*balancer), (std::vector<double>{-0.5, 0.0, 0.5}));
  balancer->end_step(load_of({2, 2, 2}), {});
  EXPECT_EQ(bias_of(*balancer), (std::vector<double>{-0.5, 0.0, 0.5}));
}

TEST_F(LossFreeBias, RecentringKeepsTheMeanAtZeroAndTheRoutes) {
  const auto plain = make_one("loss_free_bias", 3, {{"rate", 1.0}});
  const auto recentred = make_one("loss_free_bias", 3, {{"rate", 1.0}, {"recentre", true}});
  Tape tape(pool_);
  const RoutedBatch batch(tape, example(), layout_of({6}),
                          {.top_k = 1, .scores = ScoreFunction::identity});
  // Loads without balance do not move the biases by a sum of zero.
  for (const auto& counts : {std::vector<int64_t>{5, 0, 1}, {4, 1, 1}, {4, 1, 1}}) {
    plain->end_step(load_of(counts), {});
    recentred->end_step(load_of(counts), {});
    EXPECT_EQ(batch.route(*plain).expert, batch.route(*recentred).expert);
  }
  const auto bias = bias_of(*recentred);
  EXPECT_NEAR(bias[0] + bias[1] + bias[2], 0.0, 1e-15);
  EXPECT_EQ(bias_of(*plain), (std::vector<double>{-3.0, 3.0, 3.0}));
}

TEST_F(LossFreeBias, MultiplicativeRanksByTheProduct) {
  const auto balancer = make_one("loss_free_bias", 3, {{"rate", 0.5}, {"form", "multiplicative"}});
  Tape tape(pool_);
  const std::vector<double> scores = {0.5, 0.25, 0.25, 0.75, 0.125, 0.125,
                                      0.3, 0.1,  0.6,  0.0,  1e-9,  0.0};
  const RoutedBatch batch(tape, Tensor::of<double>(pool_, {4, 3}, scores), layout_of({4}),
                          {.top_k = 1, .scores = ScoreFunction::identity});
  EXPECT_EQ(bias_of(*balancer), (std::vector<double>{1.0, 1.0, 1.0}));
  Selection unbiased;
  batch.input().choose({}, unbiased);
  const Selection first = batch.route(*balancer);
  EXPECT_EQ(first.expert, (std::vector<int32_t>{0, 0, 2, 1}));
  EXPECT_EQ(first.expert, unbiased.expert);
  balancer->end_step(load_of({3, 1, 2}), {});
  EXPECT_EQ(bias_of(*balancer), (std::vector<double>{0.5, 1.5, 1.0}));
  // Products .25 .375 .25 | .375 .1875 .125 | .15 .15 .6 | 0 1.5e-9 0.
  EXPECT_EQ(batch.route(*balancer).expert, (std::vector<int32_t>{1, 0, 2, 1}));
  balancer->end_step(load_of({3, 1, 2}), {});
  EXPECT_EQ(bias_of(*balancer), (std::vector<double>{0.25, 2.0, 1.0}));
  // Products .125 .5 .25 | .1875 .25 .125 | .075 .2 .6 | 0 2e-9 0.
  EXPECT_EQ(batch.route(*balancer).expert, (std::vector<int32_t>{1, 1, 2, 1}));
}

TEST_F(LossFreeBias, MultiplicativeMovesByTheSameRulesFromOne) {
  for (const char* update : {"sign", "proportional", "normalised"}) {
    const auto sum = make_one("loss_free_bias", 4, {{"rate", 0.001}, {"update", update}});
    const auto product = make_one(
        "loss_free_bias", 4, {{"rate", 0.001}, {"update", update}, {"form", "multiplicative"}});
    sum->end_step(load_of({4, 3, 1, 0}), {});
    product->end_step(load_of({4, 3, 1, 0}), {});
    for (size_t e = 0; e < 4; ++e) {
      EXPECT_NEAR(bias_of(*product)[e], 1.0 + bias_of(*sum)[e], 1e-15) << update;
    }
    const StateDict before = state_of(*product);
    product->end_step(load_of({2, 2, 2, 2}), {});
    EXPECT_EQ(state_of(*product), before);
  }
}

TEST_F(LossFreeBias, MultiplicativeStaysAboveZero) {
  const auto balancer = make_one("loss_free_bias", 2, {{"rate", 0.3}, {"form", "multiplicative"}});
  // 1 - 0.3, 0.7 - 0.3, then halves: a step takes at most half.
  for (const double expected : {0.7, 0.4, 0.2, 0.1, 0.05}) {
    balancer->end_step(load_of({2, 0}), {});
    EXPECT_NEAR(bias_of(*balancer)[0], expected, 1e-15);
  }
  for (int step = 0; step < 3000; ++step) balancer->end_step(load_of({2, 0}), {});
  EXPECT_GT(bias_of(*balancer)[0], 0.0);
  balancer->end_step(load_of({0, 2}), {});
  EXPECT_NEAR(bias_of(*balancer)[0], 0.3, 1e-15);
}

TEST_F(LossFreeBias, MultiplicativeRecentringKeepsTheMeanAtOneAndTheRoutes) {
  const auto with = [&](bool recentre) {
    return make_one("loss_free_bias", 3,
                    {{"rate", 0.05}, {"form", "multiplicative"}, {"recentre", recentre}});
  };
  const auto plain = with(false);
  const auto recentred = with(true);
  Tape tape(pool_);
  const RoutedBatch batch(tape, example(), layout_of({6}),
                          {.top_k = 1, .scores = ScoreFunction::identity});
  // Divided by the mean after one update from 1: the same biases up to a factor.
  plain->end_step(load_of({5, 0, 1}), {});
  recentred->end_step(load_of({5, 0, 1}), {});
  const double factor = bias_of(*plain)[0] / bias_of(*recentred)[0];
  for (size_t e = 0; e < 3; ++e) {
    EXPECT_NEAR(bias_of(*plain)[e], factor * bias_of(*recentred)[e], 1e-15);
  }
  EXPECT_EQ(batch.route(*plain).expert, batch.route(*recentred).expert);
  for (int step = 0; step < 5000; ++step) recentred->end_step(load_of({3, 3, 0}), {});
  const auto bias = bias_of(*recentred);
  EXPECT_NEAR(bias[0] + bias[1] + bias[2], 3.0, 1e-12);
  for (const double b : bias) {
    EXPECT_GT(b, 0.0);
    EXPECT_LT(b, 3.0 + 1e-12);
  }
}

TEST_F(LossFreeBias, MultiplicativeReachesBalanceOnTheWorkedExample) {
  const auto balancer = make_one("loss_free_bias", 3, {{"rate", 0.1}, {"form", "multiplicative"}});
  // Biases (1, 1, 1), (.9, 1.1, 1.1), (.8, 1.2, 1.2), (.7, 1.2, 1.3).
  EXPECT_EQ(loads_of(*balancer),
            (std::vector<std::vector<int64_t>>{{5, 0, 1}, {5, 0, 1}, {3, 2, 1}, {2, 2, 2}}));
}

TEST_F(LossFreeBias, MultiplicativeBalancesWhateverTheScaleOfTheScores) {
  // Scores a thousandth the size rank alike under the same biases.
  const auto plain = make_one("loss_free_bias", 3, {{"rate", 0.1}, {"form", "multiplicative"}});
  const auto small = make_one("loss_free_bias", 3, {{"rate", 0.1}, {"form", "multiplicative"}});
  Tape tape(pool_);
  Tensor scaled = example();
  for (double& score : scaled.span<double>()) score /= 1024.0;
  const RoutedBatch batch(tape, example(), layout_of({6}),
                          {.top_k = 1, .scores = ScoreFunction::identity});
  const RoutedBatch small_batch(tape, scaled, layout_of({6}),
                                {.top_k = 1, .scores = ScoreFunction::identity});
  for (int step = 0; step < 20; ++step) {
    const Selection selection = batch.route(*plain);
    EXPECT_EQ(small_batch.route(*small).expert, selection.expert);
    plain->end_step(load_of(selection, batch.layout()), {});
    small->end_step(load_of(selection, batch.layout()), {});
  }
}

TEST_F(LossFreeBias, ReachesBalanceOnTheWorkedExample) {
  const auto balancer = make_one("loss_free_bias", 3, {{"rate", 1.0}});
  EXPECT_EQ(loads_of(*balancer),
            (std::vector<std::vector<int64_t>>{{5, 0, 1}, {5, 0, 1}, {3, 2, 1}, {2, 2, 2}}));
}

TEST_F(LossFreeBias, DecayingStepsFollowTheWorkedExample) {
  // In units of the scores 1/20: the example's u = 0.105 is 2.1.
  struct Case {
    nlohmann::json options;
    std::vector<std::vector<int64_t>> loads;
    std::vector<double> dual;
  };
  const std::vector<Case> cases = {
      {{{"rate", 1.0}, {"update", "sign"}},
       {{5, 0, 1}, {5, 0, 1}, {3, 2, 1}, {2, 2, 2}},
       {3.30, 3.00, 2.90, 2.85}},
      {{{"rate", 2.1}, {"update", "proportional"}, {"step", "inverse"}},
       {{5, 0, 1}, {3, 2, 1}, {2, 2, 2}},
       {3.30, 2.89, 2.85}},
      {{{"rate", 2.1}, {"update", "proportional"}, {"step", "inverse_sqrt"}},
       {{5, 0, 1}, {3, 2, 1}, {2, 2, 2}},
       {3.30, 2.89, 2.85}}};
  for (const Case& c : cases) {
    const auto balancer = make_one("loss_free_bias", 3, c.options);
    Tape tape(pool_);
    const RoutedBatch batch(tape, example(), layout_of({6}),
                            {.top_k = 1, .scores = ScoreFunction::identity});
    for (size_t n = 0; n < c.loads.size(); ++n) {
      EXPECT_NEAR(dual_value(bias_of(*balancer)) / 20.0, c.dual[n], 0.005) << n;
      const Selection selection = batch.route(*balancer);
      EXPECT_EQ(selection.load, c.loads[n]) << n;
      balancer->end_step(load_of(selection, batch.layout()), {});
    }
  }
}

TEST_F(LossFreeBias, CountsItsUpdatesInTheState) {
  const nlohmann::json options = {{"rate", 1.0}, {"step", "inverse"}};
  const auto whole = make_one("loss_free_bias", 2, options);
  for (const double expected : {1.0, 1.5, 1.5 + 1.0 / 3.0}) {
    whole->end_step(load_of({1, 0}), {});
    EXPECT_NEAR(bias_of(*whole)[1], expected, 1e-15);
    // A step without assignments is no update.
    whole->end_step(load_of({0, 0}), {});
  }
  const auto resumed = make_one("loss_free_bias", 2, options);
  testing::load_state(*resumed, state_of(*whole));
  whole->end_step(load_of({1, 0}), {});
  resumed->end_step(load_of({1, 0}), {});
  EXPECT_EQ(bias_of(*resumed), bias_of(*whole));
  EXPECT_EQ(state_of(*make_one("loss_free_bias", 2)).count("loss_free_bias/updates"), 0U);
}

TEST_F(LossFreeBias, DoesNotLearnWhileItRoutes) {
  const auto balancer = make_one("loss_free_bias", 3, {{"rate", 1.0}});
  balancer->end_step(load_of({5, 0, 1}), {});
  const StateDict before = state_of(*balancer);
  Tape tape(pool_);
  const RoutedBatch batch(tape, example(), layout_of({6}),
                          {.top_k = 1, .scores = ScoreFunction::identity});
  (void)batch.route(*balancer);
  EXPECT_EQ(state_of(*balancer), before);
}

TEST_F(LossFreeBias, ReportsTheRangeOfItsBiases) {
  const auto balancer = make_one("loss_free_bias", 3, {{"rate", 0.5}});
  balancer->end_step(load_of({3, 2, 1}), {});
  std::vector<std::pair<std::string, double>> metrics;
  balancer->metrics(metrics);
  EXPECT_THAT(metrics, ::testing::ElementsAre(std::pair<std::string, double>("bias_range", 1.0)));
}

}  // namespace
}  // namespace sluice
