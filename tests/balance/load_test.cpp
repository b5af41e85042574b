#include "balance/load.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::load_of;

/// Half a unit of the sixth decimal: the worked examples are printed to six.
constexpr double kPrinted = 5e-7;

TEST(LoadStatistics, AgreeWithTheWorkedExample) {
  const LoadStatistics s = load_statistics(load_of({3, 2, 2, 1}, 2));
  EXPECT_DOUBLE_EQ(s.max_vio, 0.5);
  EXPECT_DOUBLE_EQ(s.min_vio, 0.5);
  EXPECT_DOUBLE_EQ(s.avg_vio, 0.25);
  EXPECT_NEAR(s.coefficient_of_variation, 0.353553, kPrinted);
  EXPECT_NEAR(s.entropy, 0.952820, kPrinted);
  EXPECT_NEAR(s.effective_experts, std::pow(4.0, 0.952820), 6 * kPrinted);
  EXPECT_DOUBLE_EQ(s.largest_share, 0.375);
  EXPECT_EQ(s.idle_experts, 0.0);
  EXPECT_EQ(s.drop_rate, 0.0);
  EXPECT_EQ(s.experts_per_token, 2.0);
  EXPECT_NEAR(s.spread, (std::pow(4.0, 0.952820) - 2.0) / 2.0, 6 * kPrinted);
}

TEST(LoadStatistics, SpreadFromTheSameExpertsForAllTokensToABalancedLoad) {
  EXPECT_NEAR(load_statistics(load_of({6, 0, 6, 0}, 2)).spread, 0.0, 1e-15);
  EXPECT_NEAR(load_statistics(load_of({6, 6, 6, 6}, 2)).spread, 1.0, 1e-15);
  EXPECT_EQ(load_statistics(load_of({6, 6, 6, 6}, 4)).spread, 1.0) << "nothing to choose from";
  EXPECT_EQ(load_statistics({.counts = {5, 0}}).spread, 1.0) << "k is not known";
}

TEST(LoadStatistics, OfABalancedLoadAreAtTheirBest) {
  const LoadStatistics s = load_statistics(load_of({5, 5, 5, 5}));
  EXPECT_EQ(s.max_vio, 0.0);
  EXPECT_EQ(s.min_vio, 0.0);
  EXPECT_EQ(s.coefficient_of_variation, 0.0);
  EXPECT_DOUBLE_EQ(s.entropy, 1.0);
  EXPECT_DOUBLE_EQ(s.effective_experts, 4.0);
  EXPECT_DOUBLE_EQ(s.largest_share, 0.25);
}

TEST(LoadStatistics, OfACollapsedLoadAreAtTheirBound) {
  const LoadStatistics s = load_statistics(load_of({0, 12, 0, 12}, 2));
  EXPECT_DOUBLE_EQ(s.max_vio, 4.0 / 2.0 - 1.0);
  EXPECT_DOUBLE_EQ(s.min_vio, 1.0);
  EXPECT_DOUBLE_EQ(s.effective_experts, 2.0);
  EXPECT_EQ(s.idle_experts, 2.0);
  EXPECT_EQ(s.starved_experts, 2.0);
}

TEST(LoadStatistics, CallAnExpertStarvedBelowATenthOfTheMean) {
  // The mean is 100.
  EXPECT_EQ(load_statistics(load_of({9, 191})).starved_experts, 1.0);
  EXPECT_EQ(load_statistics(load_of({10, 190})).starved_experts, 0.0);
}

TEST(LoadStatistics, CountDropsAgainstAllAssignments) {
  LayerLoad load = load_of({6, 2});
  load.dropped = 2;
  EXPECT_DOUBLE_EQ(load_statistics(load).drop_rate, 0.25);
}

TEST(LoadStatistics, OfNothingAreZero) {
  for (const LayerLoad& load : {LayerLoad{}, load_of({0, 0, 0})}) {
    const LoadStatistics s = load_statistics(load);
    EXPECT_EQ(s.max_vio, 0.0);
    EXPECT_EQ(s.entropy, 0.0);
    EXPECT_EQ(s.idle_experts, 0.0);
  }
}

TEST(LoadStatistics, OfASingleExpertAreBalanced) {
  const LoadStatistics s = load_statistics(load_of({7}));
  EXPECT_EQ(s.max_vio, 0.0);
  EXPECT_EQ(s.entropy, 1.0);
  EXPECT_DOUBLE_EQ(s.effective_experts, 1.0);
}

TEST(LoadStatistics, AreAveragedOverLayersFieldByField) {
  const std::vector<LoadStatistics> layers = {load_statistics(load_of({4, 0})),
                                              load_statistics(load_of({2, 2}))};
  const LoadStatistics mean = mean_of(layers);
  EXPECT_DOUBLE_EQ(mean.max_vio, 0.5);
  EXPECT_DOUBLE_EQ(mean.idle_experts, 0.5);
  EXPECT_DOUBLE_EQ(mean.effective_experts, 1.5);
  EXPECT_EQ(mean_of({}).max_vio, 0.0);
}

LoadTracker two_layers(int64_t window = 1000) {
  const std::vector<int64_t> experts = {2, 2};
  return LoadTracker(experts, window);
}

void add(LoadTracker& tracker, std::vector<int64_t> first, std::vector<int64_t> second) {
  const std::vector<LayerLoad> loads = {load_of(std::move(first)), load_of(std::move(second))};
  tracker.add(loads);
}

TEST(LoadTracker, KeepsTheMeanAndTheMaximumOfMaxVio) {
  LoadTracker tracker = two_layers();
  add(tracker, {3, 1}, {2, 2});  // MaxVio 0.5 and 0
  add(tracker, {4, 0}, {2, 2});  // 1 and 0
  EXPECT_DOUBLE_EQ(tracker.layer(0).avg_max_vio, 0.75);
  EXPECT_DOUBLE_EQ(tracker.layer(0).sup_max_vio, 1.0);
  EXPECT_DOUBLE_EQ(tracker.model().avg_max_vio, 0.375);
  EXPECT_DOUBLE_EQ(tracker.model().sup_max_vio, 0.5);
}

TEST(LoadTracker, CallsAnExpertDeadAfterAWindowWithoutTokens) {
  LoadTracker tracker = two_layers(/*window=*/3);
  for (int step = 0; step < 2; ++step) add(tracker, {4, 0}, {2, 2});
  EXPECT_EQ(tracker.layer(0).dead_experts, 0.0);
  add(tracker, {4, 0}, {2, 2});
  EXPECT_EQ(tracker.layer(0).dead_experts, 1.0);
  EXPECT_EQ(tracker.model().dead_experts, 0.5);
  add(tracker, {3, 1}, {2, 2});
  EXPECT_EQ(tracker.layer(0).dead_experts, 0.0);
}

TEST(LoadTracker, IgnoresALoadWithoutAssignments) {
  LoadTracker tracker = two_layers();
  add(tracker, {3, 1}, {3, 1});
  add(tracker, {0, 0}, {2, 2});
  EXPECT_DOUBLE_EQ(tracker.layer(0).avg_max_vio, 0.5);
  EXPECT_DOUBLE_EQ(tracker.layer(1).avg_max_vio, 0.25);
}

TEST(LoadTracker, ContinuesFromItsSavedState) {
  LoadTracker whole = two_layers(/*window=*/2);
  LoadTracker half = two_layers(/*window=*/2);
  for (LoadTracker* tracker : {&whole, &half}) {
    add(*tracker, {3, 1}, {2, 2});
    add(*tracker, {4, 0}, {0, 4});
  }
  SaveVisitor save;
  half.visit_state(save);
  const StateDict state = save.take();
  LoadTracker resumed = two_layers(/*window=*/2);
  LoadVisitor load(state, "test");
  resumed.visit_state(load);
  load.finish();
  for (LoadTracker* tracker : {&whole, &resumed}) add(*tracker, {4, 0}, {1, 3});
  for (int64_t layer = 0; layer < 2; ++layer) {
    EXPECT_EQ(resumed.layer(layer).avg_max_vio, whole.layer(layer).avg_max_vio);
    EXPECT_EQ(resumed.layer(layer).sup_max_vio, whole.layer(layer).sup_max_vio);
    EXPECT_EQ(resumed.layer(layer).dead_experts, whole.layer(layer).dead_experts);
  }
  EXPECT_EQ(resumed.layer(0).dead_experts, 1.0);
}

TEST(LoadTracker, RefusesLoadsOfAnotherModel) {
  LoadTracker tracker = two_layers();
  EXPECT_THROW(tracker.add({}), InternalError);
  EXPECT_THROW(add(tracker, {1, 1, 1}, {1, 1}), InternalError);
}

}  // namespace
}  // namespace sluice
