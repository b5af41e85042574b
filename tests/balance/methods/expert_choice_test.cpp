#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tests/balance/chosen_weights.h"
#include "tests/support/thread_ranks.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::make_one;
using testing::numbers_of;
using testing::RoutedBatch;
using testing::ScoreFunction;
using testing::skewed_logits;
using testing::state_of;
using testing::weights_of;

/// Experts of each token, in increasing order.
std::vector<std::vector<int32_t>> sets_of(const Selection& selection) {
  std::vector<std::vector<int32_t>> sets;
  for (int64_t t = 0; t < selection.tokens; ++t) {
    sets.emplace_back();
    for (int64_t slot = t * selection.top_k; slot < (t + 1) * selection.top_k; ++slot) {
      const int32_t expert = selection.expert[static_cast<size_t>(slot)];
      if (expert != kNoExpert) sets.back().push_back(expert);
    }
    std::ranges::sort(sets.back());
  }
  return sets;
}

class ExpertChoice : public ::testing::Test {
 protected:
  Tensor example() {
    return Tensor::of<double>(pool_, {6, 3},
                              {.6, .3, .1, .5, .4, .1, .2, .3, .5,  //
                               .1, .7, .2, .3, .3, .4, .4, .4, .2});
  }
  static testing::RoutedBatchOptions identity(bool training = true) {
    return {.top_k = 1, .scores = ScoreFunction::identity, .training = training};
  }
  Pool pool_;
};

TEST_F(ExpertChoice, SolvesTheWorkedExample) {
  Tape tape(pool_);
  const auto balancer = make_one("expert_choice", 3);
  const RoutedBatch batch(tape, example(), layout_of({6}), identity());
  const Selection selection = batch.route(*balancer);
  EXPECT_EQ(sets_of(selection),
            (std::vector<std::vector<int32_t>>{{0}, {0, 1}, {2}, {1}, {2}, {}}));
  EXPECT_EQ(selection.load, (std::vector<int64_t>{2, 2, 2}));
  EXPECT_EQ(selection.top_k, 2);
  // Token 1 scores .5 with expert 0 and .4 with expert 1; token 5 has no expert.
  const auto weights = weights_of(tape, batch, *balancer, selection);
  EXPECT_EQ(weights, (std::vector<double>{.6, 0, .5, .4, .5, 0, .7, 0, .4, 0, 0, 0}));
}

TEST_F(ExpertChoice, GivesEveryExpertExactlyItsCapacity) {
  Tape tape(pool_);
  for (const auto& [factor, expected] : std::vector<std::pair<double, int64_t>>{
           {1.0, 13}, {2.0, 26}, {0.5, 6}, {8.0, 104}, {20.0, 104}}) {
    const auto balancer = make_one("expert_choice", 8, {{"capacity_factor", factor}});
    const RoutedBatch batch(tape, skewed_logits(pool_, 104, 8), layout_of({50, 54}), {.top_k = 2});
    EXPECT_EQ(batch.route(*balancer).load, std::vector<int64_t>(8, expected));
  }
}

TEST_F(ExpertChoice, TakesTopKAsItsCapacityFactor) {
  Tape tape(pool_);
  const auto balancer = make_one("expert_choice", 8);
  const RoutedBatch batch(tape, skewed_logits(pool_, 64, 8), layout_of({64}), {.top_k = 3});
  EXPECT_EQ(batch.route(*balancer).load, std::vector<int64_t>(8, 24));
}

TEST_F(ExpertChoice, LooksAtLaterTokensInTraining) {
  Tape tape(pool_);
  const auto balancer = make_one("expert_choice", 3);
  EXPECT_TRUE(balancer->traits().batch_dependent);
  EXPECT_TRUE(balancer->traits().varies_k);
  Tensor changed = example();
  changed.data<double>()[15] = 0.9;  // token 5 wants expert 0 most
  const RoutedBatch before(tape, example(), layout_of({6}), identity());
  const RoutedBatch after(tape, changed, layout_of({6}), identity());
  EXPECT_EQ(sets_of(before.route(*balancer))[1], (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(sets_of(after.route(*balancer))[1], (std::vector<int32_t>{1}));
}

TEST_F(ExpertChoice, GoesByThresholdsInEvaluation) {
  Tape tape(pool_);
  const auto balancer = make_one("expert_choice", 3);
  const RoutedBatch training(tape, example(), layout_of({6}), identity());
  const RoutedBatch evaluation(tape, example(), layout_of({6}), identity(false));
  // Nothing learned: the router's choice.
  EXPECT_EQ(sets_of(evaluation.route(*balancer))[1], (std::vector<int32_t>{0}));
  const auto chosen = sets_of(training.route(*balancer));
  // The third largest of every column.
  EXPECT_EQ(numbers_of(state_of(*balancer), "expert_choice/thresholds"),
            (std::vector<double>{.4, .4, .2}));
  // Token 1 ties with token 5 at expert 1 and does not pass there.
  auto expected = chosen;
  expected[1] = {0};
  EXPECT_EQ(sets_of(evaluation.route(*balancer)), expected);
  // A token alone goes where it goes among others.
  const RoutedBatch alone(tape, Tensor::of<double>(pool_, {1, 3}, {.1, .7, .2}), layout_of({1}),
                          identity(false));
  EXPECT_EQ(sets_of(alone.route(*balancer))[0], expected[3]);
}

TEST_F(ExpertChoice, AveragesItsThresholdsOverMicroBatches) {
  Tape tape(pool_);
  const auto balancer = make_one("expert_choice", 3, {{"decay", 0.75}});
  const RoutedBatch first(tape, example(), layout_of({6}), identity());
  (void)first.route(*balancer);
  Tensor doubled = example();
  for (int64_t i = 0; i < 18; ++i) doubled.data<double>()[i] *= 2.0;
  const RoutedBatch second(tape, doubled, layout_of({6}), identity());
  (void)second.route(*balancer);
  const auto thresholds = numbers_of(state_of(*balancer), "expert_choice/thresholds");
  EXPECT_NEAR(thresholds[0], .75 * .4 + .25 * .8, 1e-15);
  EXPECT_NEAR(thresholds[2], .75 * .2 + .25 * .4, 1e-15);
}

TEST_F(ExpertChoice, KeepsAboutItsLoadInEvaluation) {
  Tape tape(pool_);
  for (const std::string over : {"experts", "tokens"}) {
    const auto balancer = make_one("expert_choice", 8, {{"over", over}});
    for (uint64_t seed = 1; seed <= 20; ++seed) {
      const RoutedBatch batch(tape, skewed_logits(pool_, 256, 8, seed), layout_of({256}),
                              {.top_k = 2});
      (void)batch.route(*balancer);
    }
    const RoutedBatch held_out(tape, skewed_logits(pool_, 2048, 8, 99), layout_of({2048}),
                               {.top_k = 2, .training = false});
    for (const int64_t load : held_out.route(*balancer).load) {
      EXPECT_NEAR(static_cast<double>(load), 512.0, 0.25 * 512.0);
    }
  }
}

TEST_F(ExpertChoice, HasTheGradientOfItsWeights) {
  for (const std::string over : {"experts", "tokens"}) {
    const auto balancer = make_one("expert_choice", 5, {{"over", over}});
    testing::expect_weight_gradient(pool_, skewed_logits(pool_, 20, 5),
                                    testing::with_uncounted(layout_of({20})), {.top_k = 2},
                                    *balancer);
  }
}

TEST_F(ExpertChoice, OverTokensWeighsWithTheSoftmaxOfTheColumnOverTheNumberOfTakers) {
  Tape tape(pool_);
  const auto balancer = make_one("expert_choice", 2, {{"over", "tokens"}});
  const std::vector<double> z = {1.0, 0.5, 0.0, 0.25, -1.0, -2.0, -0.5, -1.0};
  const RoutedBatch batch(tape, Tensor::of<double>(pool_, {4, 2}, z), layout_of({4}), {.top_k = 1});
  const Selection selection = batch.route(*balancer);
  EXPECT_EQ(sets_of(selection), (std::vector<std::vector<int32_t>>{{0, 1}, {0, 1}, {}, {}}));
  const double first = std::exp(1.0) + 1.0 + std::exp(-1.0) + std::exp(-0.5);
  const double second = std::exp(0.5) + std::exp(0.25) + std::exp(-2.0) + std::exp(-1.0);
  const auto weights = weights_of(tape, batch, *balancer, selection);
  // Slots are ordered by logits: token 1 has expert 1 first.
  EXPECT_NEAR(weights[0], std::exp(1.0) / first / 2.0, 1e-15);
  EXPECT_NEAR(weights[1], std::exp(0.5) / second / 2.0, 1e-15);
  EXPECT_NEAR(weights[2], std::exp(0.25) / second / 2.0, 1e-15);
  EXPECT_NEAR(weights[3], 1.0 / first / 2.0, 1e-15);
  // Evaluation weighs with the denominators that training saw, here these.
  const RoutedBatch alone(tape, Tensor::of<double>(pool_, {1, 2}, {z[0], -9.0}), layout_of({1}),
                          {.top_k = 1, .training = false});
  const Selection single = alone.route(*balancer);
  EXPECT_EQ(sets_of(single)[0], (std::vector<int32_t>{0}));
  EXPECT_NEAR(weights_of(tape, alone, *balancer, single)[0], std::exp(1.0) / first, 1e-15);
}

TEST_F(ExpertChoice, CoverageIsItsCoefficientWhenEveryTokenIsAskedForAlike) {
  Tape tape(pool_);
  const auto balancer = make_one("expert_choice", 4, {{"over", "tokens"}, {"coverage", 0.5}});
  const RoutedBatch even(tape, Tensor::of<double>(pool_, {8, 4}, std::vector<double>(32, 0.3)),
                         layout_of({8}), {.top_k = 2});
  EXPECT_NEAR(even.loss(tape, *balancer, even.route(*balancer)).item(), 0.5, 1e-14);
  // Half of a global batch of twice the tokens weighs half.
  const RoutedBatch half(tape, Tensor::of<double>(pool_, {8, 4}, std::vector<double>(32, 0.3)),
                         layout_of({8}), {.top_k = 2, .valid_tokens = 16});
  EXPECT_NEAR(half.loss(tape, *balancer, half.route(*balancer)).item(), 0.25, 1e-14);
  const RoutedBatch skewed(tape, skewed_logits(pool_, 8, 4), layout_of({8}), {.top_k = 2});
  EXPECT_GT(skewed.loss(tape, *balancer, skewed.route(*balancer)).item(), 0.5);
}

TEST_F(ExpertChoice, CoverageHasItsGradient) {
  const auto balancer = make_one("expert_choice", 4, {{"over", "tokens"}, {"coverage", 1.0}});
  const SequenceLayout layout = testing::with_uncounted(layout_of({10}));
  const OpSample sample{.label = "coverage",
                        .inputs = {skewed_logits(pool_, 10, 4)},
                        .differentiable = {true},
                        .apply = [&](Tape& tape, std::span<const Tensor> inputs) {
                          const RoutedBatch batch(tape, inputs[0], layout, {.top_k = 2});
                          return std::vector<Tensor>{batch.loss(tape, *balancer, Selection())};
                        }};
  const GradcheckReport report = gradcheck(pool_, sample);
  EXPECT_TRUE(report.passed) << report.message;
}

TEST_F(ExpertChoice, RefusesCoverageWithoutASoftmaxOverTokens) {
  EXPECT_EQ(testing::method("expert_choice", {{"coverage", 0.5}}).config->check(),
            "coverage: found 0.5, allowed 0 with over: experts, where it is constant");
}

TEST_F(ExpertChoice, LetsNoExpertTakeATokenWithoutALoss) {
  Tape tape(pool_);
  const SequenceLayout layout = testing::with_uncounted(layout_of({60}));
  const Tensor z = skewed_logits(pool_, 60, 4);
  const Tensor counted = testing::counted_rows(pool_, z, layout);
  const auto balancer = make_one("expert_choice", 4);
  const RoutedBatch all(tape, z, layout, {.top_k = 2});
  const RoutedBatch some(tape, counted, layout_of({counted.dim(0)}), {.top_k = 2});
  const Selection selection = all.route(*balancer);
  testing::expect_same_counted_routes(selection, some.route(*balancer), layout);
  EXPECT_EQ(selection.load, std::vector<int64_t>(4, 20));
}

TEST_F(ExpertChoice, GoesOnFromTheMeanOfTheThresholdsOfRanksThatHaveSome) {
  const nlohmann::json options = {{"over", "tokens"}};
  const auto after = [&](Pool& pool, int rank, const std::function<void(Balancer&)>& then) {
    const auto balancer = make_one("expert_choice", 4, options);
    Tape tape(pool);
    // The third rank has no token with a loss.
    SequenceLayout layout = layout_of({20});
    if (rank == 2) layout.counted.assign(20, 0);
    const Tensor z =
        SampleFactory(pool, DType::f64, static_cast<uint64_t>(rank + 1)).uniform({20, 4});
    (void)RoutedBatch(tape, z, layout, {.top_k = 2, .valid_tokens = 40}).route(*balancer);
    then(*balancer);
    return state_of(*balancer);
  };
  std::vector<StateDict> alone;
  for (const int rank : {0, 1}) alone.push_back(after(pool_, rank, [](Balancer&) {}));
  testing::ThreadRanks::run(3, [&](Communicator& communicator) {
    Pool pool;
    const StateDict state = after(pool, communicator.rank(),
                                  [&](Balancer& balancer) { balancer.reduce(communicator); });
    EXPECT_EQ(state.at("expert_choice/micro_batches"), alone[0].at("expert_choice/micro_batches"));
    for (const std::string path : {"expert_choice/thresholds", "expert_choice/log_partition"}) {
      const auto values = numbers_of(state, path);
      for (size_t e = 0; e < 4; ++e) {
        const double sum = numbers_of(alone[0], path)[e] + numbers_of(alone[1], path)[e];
        EXPECT_DOUBLE_EQ(values[e], sum / 2.0) << path;
      }
    }
  });
}

TEST_F(ExpertChoice, KeepsNoThresholdOfABatchWithNan) {
  Tape tape(pool_);
  for (const std::string over : {"experts", "tokens"}) {
    const auto balancer = make_one("expert_choice", 3, {{"over", over}});
    (void)RoutedBatch(tape, example(), layout_of({6}), identity()).route(*balancer);
    const std::vector<double> bad(18, std::numeric_limits<double>::quiet_NaN());
    const RoutedBatch broken(tape, Tensor::of<double>(pool_, {6, 3}, bad), layout_of({6}),
                             identity());
    (void)broken.route(*balancer);
    for (const double threshold : numbers_of(state_of(*balancer), "expert_choice/thresholds")) {
      EXPECT_TRUE(std::isfinite(threshold));
    }
  }
}

}  // namespace
}  // namespace sluice
