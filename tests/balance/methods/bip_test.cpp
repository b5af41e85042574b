#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

#include "autograd/support/parallel.h"
#include "tests/balance/routed_batch.h"
#include "tests/support/thread_ranks.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::load_of;
using testing::make_one;
using testing::numbers_of;
using testing::RoutedBatch;
using testing::RoutedBatchOptions;
using testing::ScoreFunction;
using testing::state_of;

std::vector<double> prices_of(Balancer& balancer) {
  return numbers_of(state_of(balancer), "bip/prices");
}

/// The worked example, in units of 1/64 so that every number is exact; its greedy load is (5, 0,
/// 1).
template <class T>
std::vector<T> example_scores() {
  std::vector<T> scores = {45, 13, 6, 38, 19, 7, 35, 10, 19, 32, 26, 6, 29, 22, 13, 13, 19, 32};
  for (T& score : scores) score /= 64;
  return scores;
}

class Bip : public ::testing::Test {
 protected:
  template <class T>
  Tensor example() {
    return Tensor::of<T>(pool_, {6, 3}, example_scores<T>());
  }
  Tensor random_scores(int64_t tokens, int64_t experts, uint64_t seed = 1) {
    SampleFactory factory(pool_, DType::f64, seed);
    return factory.uniform({tokens, experts}, 0.0, 1.0);
  }
  static RoutedBatchOptions training(int64_t top_k = 1) {
    return {.top_k = top_k, .scores = ScoreFunction::identity};
  }
  static RoutedBatchOptions evaluation(int64_t top_k = 1) {
    return {.top_k = top_k, .scores = ScoreFunction::identity, .training = false};
  }
  Pool pool_;
};

TEST_F(Bip, SolvesTheWorkedExampleInBothPrecisions) {
  for (const Tensor& scores : {example<float>(), example<double>()}) {
    Tape tape(pool_);
    const RoutedBatch batch(tape, scores, layout_of({6}), training());
    for (const int iterations : {1, 2, 5}) {
      const auto balancer = make_one("bip", 3, {{"iterations", iterations}});
      // Token 2 is exactly indifferent between experts 0 and 2 and goes to the lower one.
      EXPECT_EQ(batch.route(*balancer).load, (std::vector<int64_t>{3, 2, 1}));
      EXPECT_EQ(prices_of(*balancer), (std::vector<double>{16.0 / 64, 0.0, 0.0}));
    }
  }
}

TEST_F(Bip, KeepsItsPricesFixedInEvaluation) {
  Tape tape(pool_);
  const auto balancer = make_one("bip", 3);
  const RoutedBatch train(tape, example<double>(), layout_of({6}), training());
  const Selection trained = train.route(*balancer);
  const StateDict before = state_of(*balancer);
  const RoutedBatch evaluate(tape, example<double>(), layout_of({6}), evaluation());
  EXPECT_EQ(evaluate.route(*balancer).expert, trained.expert);
  EXPECT_EQ(state_of(*balancer), before);
}

TEST_F(Bip, RoutesWithThePricesBeforeWhenAsked) {
  Tape tape(pool_);
  const auto balancer = make_one("bip", 3, {{"select", "before"}});
  const RoutedBatch batch(tape, example<double>(), layout_of({6}), training());
  EXPECT_EQ(batch.route(*balancer).load, (std::vector<int64_t>{5, 0, 1}));
  EXPECT_EQ(batch.route(*balancer).load, (std::vector<int64_t>{3, 2, 1}));
}

TEST_F(Bip, StartsFromThePricesOfTheMicroBatchBefore) {
  Tape tape(pool_);
  const Tensor scores = random_scores(256, 8);
  const RoutedBatch batch(tape, scores, layout_of({256}), training(2));
  const auto twice = make_one("bip", 8, {{"iterations", 2}});
  const auto once = make_one("bip", 8, {{"iterations", 4}});
  (void)batch.route(*twice);
  (void)batch.route(*twice);
  (void)batch.route(*once);
  EXPECT_EQ(prices_of(*twice), prices_of(*once));
}

TEST_F(Bip, LeavesMaskedTokensOutOfThePrices) {
  Tape tape(pool_);
  // The example with a token in front that has no loss but would fill expert 1.
  std::vector<double> scores = {0.0, 1.0, 0.0};
  const auto example = example_scores<double>();
  scores.insert(scores.end(), example.begin(), example.end());
  SequenceLayout layout = layout_of({7});
  layout.counted[0] = 0;
  const RoutedBatch batch(tape, Tensor::of<double>(pool_, {7, 3}, scores), layout, training());
  const auto balancer = make_one("bip", 3);
  const Selection selection = batch.route(*balancer);
  EXPECT_EQ(prices_of(*balancer), (std::vector<double>{16.0 / 64, 0.0, 0.0}));
  EXPECT_EQ(selection.expert[0], 1);
  EXPECT_EQ(selection.load, (std::vector<int64_t>{3, 2, 1}));
}

TEST_F(Bip, RoundsTheCapacityOfAnUnevenBatchDown) {
  // 5 tokens for 3 experts: capacity 1, so each price is the second surplus of its expert.
  Tape tape(pool_);
  const std::vector<double> scores = {0.5, 0, 0, 0.5, 0, 0, 0.25, 0, 0, 0.25, 0, 0, 0.25, 0, 0};
  const RoutedBatch batch(tape, Tensor::of<double>(pool_, {5, 3}, scores), layout_of({5}),
                          training());
  const auto balancer = make_one("bip", 3, {{"iterations", 1}});
  (void)batch.route(*balancer);
  EXPECT_EQ(prices_of(*balancer), (std::vector<double>{0.5, 0.0, 0.0}));
}

TEST_F(Bip, BalancesRandomScoresFromTheFirstMicroBatch) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, random_scores(1024, 16), layout_of({1024}), training(4));
  const auto balancer = make_one("bip", 16);
  const auto load = batch.route(*balancer).load;
  const double mean = 1024.0 * 4 / 16;
  EXPECT_LT(static_cast<double>(*std::max_element(load.begin(), load.end())) / mean - 1.0, 0.05);
}

TEST_F(Bip, FollowsAPermutationOfTokens) {
  Tape tape(pool_);
  const Tensor scores = random_scores(100, 4);
  const auto values = scores.span<double>();
  std::vector<double> rotated(values.begin() + 40 * 4, values.end());
  rotated.insert(rotated.end(), values.begin(), values.begin() + 40 * 4);
  const RoutedBatch batch(tape, scores, layout_of({100}), training(2));
  const RoutedBatch moved(tape, Tensor::of<double>(pool_, {100, 4}, rotated), layout_of({100}),
                          training(2));
  const auto a = make_one("bip", 4);
  const auto b = make_one("bip", 4);
  std::vector<int32_t> expected = batch.route(*a).expert;
  std::rotate(expected.begin(), expected.begin() + 40 * 2, expected.end());
  EXPECT_EQ(moved.route(*b).expert, expected);
  EXPECT_EQ(prices_of(*a), prices_of(*b));
}

TEST_F(Bip, RecentringTakesTheLeastPriceAwayAndChangesNoRoute) {
  Tape tape(pool_);
  const auto plain = make_one("bip", 8, {{"iterations", 4}});
  const auto recentred = make_one("bip", 8, {{"iterations", 4}, {"recentre", true}});
  // Fresh batches push the prices up.
  for (uint64_t step = 1; step <= 20; ++step) {
    const RoutedBatch batch(tape, random_scores(512, 8, step), layout_of({512}), training(2));
    (void)batch.route(*plain);
    (void)batch.route(*recentred);
  }
  const auto prices = prices_of(*recentred);
  EXPECT_EQ(*std::min_element(prices.begin(), prices.end()), 0.0);
  const auto drifted = prices_of(*plain);
  ASSERT_GT(*std::min_element(drifted.begin(), drifted.end()), 0.0);

  StateDict shifted = state_of(*plain);
  const double least = *std::min_element(drifted.begin(), drifted.end());
  auto* values = reinterpret_cast<double*>(shifted.at("bip/prices").bytes.data());
  for (int e = 0; e < 8; ++e) values[e] -= least;
  const auto moved = make_one("bip", 8);
  testing::load_state(*moved, shifted);
  const RoutedBatch batch(tape, random_scores(512, 8, 99), layout_of({512}), evaluation(2));
  EXPECT_EQ(batch.route(*moved).expert, batch.route(*plain).expert);
}

TEST_F(Bip, DoesNotKeepPricesOfABatchWithNan) {
  Tape tape(pool_);
  const auto balancer = make_one("bip", 3);
  const RoutedBatch good(tape, example<double>(), layout_of({6}), training());
  (void)good.route(*balancer);
  const std::vector<double> infinite(18, std::numeric_limits<double>::infinity());
  const RoutedBatch bad(tape, Tensor::of<double>(pool_, {6, 3}, infinite), layout_of({6}),
                        training());
  (void)bad.route(*balancer);
  for (const double price : prices_of(*balancer)) EXPECT_TRUE(std::isfinite(price));
}

TEST_F(Bip, LeavesItsPricesAloneWithoutCountedTokens) {
  Tape tape(pool_);
  const auto balancer = make_one("bip", 3);
  (void)RoutedBatch(tape, example<double>(), layout_of({6}), training()).route(*balancer);
  const StateDict before = state_of(*balancer);
  SequenceLayout layout = layout_of({6});
  std::fill(layout.counted.begin(), layout.counted.end(), uint8_t{0});
  (void)RoutedBatch(tape, example<double>(), layout, training()).route(*balancer);
  EXPECT_EQ(state_of(*balancer), before);
}

TEST_F(Bip, MidpointPricesLeaveNoTokenIndifferent) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, example<double>(), layout_of({6}), training());
  const auto balancer = make_one("bip", 3, {{"midpoint", true}});
  // Token 2 was exactly indifferent between experts 0 and 2.
  EXPECT_EQ(batch.route(*balancer).load, (std::vector<int64_t>{2, 2, 2}));
}

TEST_F(Bip, RoutesEvaluationByTheScoresWhenAsked) {
  Tape tape(pool_);
  const auto balancer = make_one("bip", 3, {{"evaluate", "scores"}});
  const RoutedBatch train(tape, example<double>(), layout_of({6}), training());
  EXPECT_EQ(train.route(*balancer).load, (std::vector<int64_t>{3, 2, 1}));
  const RoutedBatch evaluate(tape, example<double>(), layout_of({6}), evaluation());
  EXPECT_EQ(evaluate.route(*balancer).load, (std::vector<int64_t>{5, 0, 1}));
}

TEST_F(Bip, GoesOnFromTheMeanOfTheRanksPrices) {
  const Tensor scores[] = {random_scores(40, 4, 1), random_scores(40, 4, 2)};
  std::vector<std::vector<double>> alone;
  for (const Tensor& of_rank : scores) {
    const auto balancer = make_one("bip", 4);
    Tape tape(pool_);
    (void)RoutedBatch(tape, of_rank, layout_of({40}), training(2)).route(*balancer);
    alone.push_back(prices_of(*balancer));
  }
  EXPECT_NE(alone[0], alone[1]);
  testing::ThreadRanks::run(2, [&](Communicator& communicator) {
    Pool pool;
    Tape tape(pool);
    const auto balancer = make_one("bip", 4);
    const Tensor& of_rank = scores[communicator.rank()];
    (void)RoutedBatch(tape, of_rank, layout_of({40}), training(2)).route(*balancer);
    balancer->reduce(communicator);
    const auto prices = prices_of(*balancer);
    for (size_t e = 0; e < 4; ++e) EXPECT_EQ(prices[e], (alone[0][e] + alone[1][e]) / 2.0);
  });
}

TEST_F(Bip, SaysThatItsRoutesDependOnTheBatch) {
  for (const std::string select : {"after", "before"}) {
    EXPECT_TRUE(make_one("bip", 3, {{"select", select}})->traits().batch_dependent);
  }
}

}  // namespace
}  // namespace sluice
