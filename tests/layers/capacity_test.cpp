#include "layers/capacity.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

/// Fixture F1 of the method notes: 4 tokens, 4 experts, top-2.
Selection f1_selection() {
  Selection selection;
  selection.tokens = 4;
  selection.experts = 4;
  selection.top_k = 2;
  selection.expert = {0, 1, 1, 0, 0, 2, 2, 3};
  return selection;
}

const std::vector<double> kF1Weights = {0.731059, 0.268941, 0.731059, 0.268941,
                                        0.880797, 0.119203, 0.731059, 0.268941};
const std::vector<uint8_t> kAllCounted = {1, 1, 1, 1};

TEST(Capacity, IsTheRoundedUpShare) {
  EXPECT_EQ(expert_capacity(1.0, 4, 2, 4), 2);
  EXPECT_EQ(expert_capacity(1.25, 4, 2, 4), 3);
  EXPECT_EQ(expert_capacity(1.0, 5, 1, 4), 2);
  EXPECT_EQ(expert_capacity(1.1, 100, 2, 4), 55) << "1.1 * 50 is above 55 in binary only";
}

TEST(Capacity, ByPositionFirstChoicesClaimBeforeSecondOnes) {
  Selection selection = f1_selection();
  apply_capacity(selection, 2, DropPolicy::position, {}, kAllCounted);
  const std::vector<int32_t> expected = {0, 1, 1, kNoExpert, 0, 2, 2, 3};
  EXPECT_EQ(selection.dispatched, expected);
  EXPECT_EQ(selection.dropped, 1);
  EXPECT_EQ(selection.expert, f1_selection().expert) << "the choice itself stays";
}

TEST(Capacity, ByWeightKeepsTheLargestWeights) {
  Selection selection = f1_selection();
  apply_capacity(selection, 1, DropPolicy::weight, kF1Weights, kAllCounted);
  // Expert 0: token 2 (.88) beats token 0 (.73) and token 1; expert 1: token 1 (.73) beats token 0;
  // expert 2: token 3.
  const std::vector<int32_t> expected = {kNoExpert, kNoExpert, 1, kNoExpert, 0, kNoExpert, 2, 3};
  EXPECT_EQ(selection.dispatched, expected);
  EXPECT_EQ(selection.dropped, 4);
}

TEST(Capacity, DropsCanBeCountedAgainFromWhatWasDispatched) {
  const std::vector<uint8_t> counted = {1, 0, 1, 1};
  Selection selection = f1_selection();
  selection.expert[3] = kNoExpert;  // an empty slot is no drop
  apply_capacity(selection, 1, DropPolicy::weight, kF1Weights, counted);
  const int64_t dropped = selection.dropped;
  EXPECT_GT(dropped, 0);
  selection.dropped = 0;
  selection.count_dropped(counted);
  EXPECT_EQ(selection.dropped, dropped);
}

TEST(Capacity, ByWeightGivesWayBeforeANaN) {
  Selection selection = f1_selection();
  std::vector<double> weights(kF1Weights.begin(), kF1Weights.end());
  weights[4] = std::nan("");  // token 2's first choice, expert 0
  apply_capacity(selection, 1, DropPolicy::weight, weights, kAllCounted);
  EXPECT_EQ(selection.dispatched[0], 0);
  EXPECT_EQ(selection.dispatched[4], kNoExpert);
}

TEST(Capacity, DropsNothingWhenEveryExpertCouldTakeEveryToken) {
  Selection selection = f1_selection();
  apply_capacity(selection, expert_capacity(2.0, 4, 2, 4), DropPolicy::position, {}, kAllCounted);
  EXPECT_EQ(selection.dispatched, selection.expert);
  EXPECT_EQ(selection.dropped, 0);
}

TEST(Capacity, CountsDropsOfTokensWithALossOnly) {
  Selection selection = f1_selection();
  const std::vector<uint8_t> counted = {1, 0, 1, 1};
  apply_capacity(selection, 2, DropPolicy::position, {}, counted);
  EXPECT_EQ(selection.dropped, 0) << "the dropped assignment is of token 1, which has no loss";
}

}  // namespace
}  // namespace sluice
