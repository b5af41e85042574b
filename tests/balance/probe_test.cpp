#include "balance/probe.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/balance/routed_batch.h"
#include "tests/support/thread_ranks.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using testing::layout_of;
using ::testing::SizeIs;

const std::vector<int64_t> kExperts = {4};

/// Sequence `sample` of tokens with these top-2 choices, through the one layer; logits are the
/// tokens' numbers of expert, so that they differ.
void show(RoutingProbe& probe, int64_t domain, uint64_t sample, const std::vector<int32_t>& chosen,
          std::vector<uint8_t> counted = {}) {
  Pool pool;
  const auto tokens = std::ssize(chosen) / 2;
  SequenceLayout layout = layout_of({tokens});
  layout.global_samples = {sample};
  if (!counted.empty()) layout.counted = std::move(counted);
  Selection selection{.tokens = tokens, .experts = 4, .top_k = 2, .expert = chosen};
  selection.count_load(layout.counted);
  std::vector<float> logits;
  for (int64_t i = 0; i < 4 * tokens; ++i) logits.push_back(static_cast<float>(i % 4));
  const Tensor z = Tensor::of<float>(pool, {tokens, 4}, logits);
  probe.begin_batch(domain);
  probe.observe({0, {.logits = z, .scores = z, .probabilities = z}, selection, layout, {}});
}

TEST(RoutingProbe, CountsByDomain) {
  RoutingProbe probe(kExperts, 2, 1);
  show(probe, 0, 0, {0, 1, 1, 0, 0, 2, 2, 3});
  show(probe, 1, 1, {3, 2, 3, 0}, {1, 0});
  EXPECT_THAT(probe.tokens(), ElementsAre(4, 1));
  const LayerProbe& layer = probe.layers().front();
  EXPECT_THAT(layer.chosen, ElementsAre(ElementsAre(3, 2, 2, 1), ElementsAre(0, 0, 1, 1)));
  EXPECT_THAT(layer.all_chosen(), ElementsAre(3, 2, 3, 2));
  EXPECT_THAT(layer.logit_sum, ElementsAre(0, 5, 10, 15));
  EXPECT_EQ(layer.together.counts()[2 * 4 + 3], 2);
}

TEST(RoutingProbe, CountsNoPairsOfMoreExpertsThanMemoryIsMeantFor) {
  constexpr int64_t kMost = 1024;
  EXPECT_EQ(LayerProbe(1, kMost).together.experts(), kMost);
  const std::vector<int64_t> many = {kMost + 1};
  RoutingProbe probe(many, 1, 1);
  const LayerProbe& layer = probe.layers().front();
  EXPECT_EQ(layer.together.experts(), 0);
  EXPECT_EQ(layer.strongest_pair(), 0.0);

  Pool pool;
  const SequenceLayout layout = layout_of({1});
  Selection selection{.tokens = 1, .experts = many[0], .top_k = 2, .expert = {3, 1024}};
  selection.count_load(layout.counted);
  const Tensor z = Tensor::zeros(pool, {1, many[0]}, DType::f32);
  probe.observe({0, {.logits = z, .scores = z, .probabilities = z}, selection, layout, {}});
  EXPECT_EQ(layer.chosen[0][1024], 1);
  SingleRank alone;
  probe.reduce(alone);
  EXPECT_EQ(layer.chosen[0][3], 1);
}

TEST(RoutingProbe, NamesTheStrongestPairOfEachExpert) {
  RoutingProbe probe(kExperts, 1, 1);
  show(probe, 0, 0, {0, 1, 1, 0, 0, 2, 2, 3});
  // The rows of the worked example have the largest entries 2/3, 1, 1/2 and 1.
  EXPECT_DOUBLE_EQ(probe.layers().front().strongest_pair(), (2.0 / 3.0 + 1.0 + 0.5 + 1.0) / 4.0);
  EXPECT_EQ(LayerProbe(1, 4).strongest_pair(), 0.0);
}

TEST(RoutingProbe, TakesTheMeanLogitForTheQualityOfAnExpert) {
  LayerProbe layer(1, 5);
  const std::vector<double> quality = {.8, .3, 0, -.4, -.7};
  const std::vector<double> share = {.283385, .227402, .196557, .158985, .133671};
  for (size_t i = 0; i < 5; ++i) {
    layer.chosen[0][i] = std::llround(1e6 * share[i]);
    layer.logit_sum[i] = 50.0 * quality[i];
  }
  EXPECT_NEAR(layer.congestion(50).value(), 5.000, 5e-4);
  EXPECT_FALSE(LayerProbe(1, 5).congestion(0).has_value());
}

TEST(RoutingProbe, AddsRanks) {
  RoutingProbe alone(kExperts, 2, 1);
  show(alone, 0, 0, {0, 1, 1, 0});
  show(alone, 1, 1, {3, 2});
  testing::ThreadRanks::run(2, [&](Communicator& communicator) {
    RoutingProbe probe(kExperts, 2, 1);
    if (communicator.rank() == 0) show(probe, 0, 0, {0, 1, 1, 0});
    if (communicator.rank() == 1) show(probe, 1, 1, {3, 2});
    probe.reduce(communicator);
    EXPECT_EQ(probe.tokens(), alone.tokens());
    const LayerProbe& layer = probe.layers().front();
    EXPECT_EQ(layer.chosen, alone.layers().front().chosen);
    EXPECT_EQ(layer.logit_sum, alone.layers().front().logit_sum);
    EXPECT_THAT(layer.together.counts(),
                ::testing::ElementsAreArray(alone.layers().front().together.counts()));
  });
}

// --- what is remembered --------------------------------------------------------------------------

TEST(RememberedChoices, AreThoseOfCountedTokens) {
  RoutingProbe probe(kExperts, 1, 1);
  show(probe, 0, 5, {0, 1, 1, 0, kNoExpert, 2}, {1, 0, 1});
  const RememberedChoices choices = probe.remembered(40);
  EXPECT_EQ(choices.step, 40);
  EXPECT_THAT(choices.token, ElementsAre((5ULL << 32) + 0, (5ULL << 32) + 2));
  EXPECT_THAT(choices.width, ElementsAre(2));
  EXPECT_THAT(choices.expert, ElementsAre(0, 1, 2, kNoExpert));
}

TEST(RememberedChoices, AreOfTheSameTokensHoweverBatchesAreCut) {
  const std::vector<int32_t> chosen(2 * 400, 1);
  RoutingProbe one(kExperts, 1, 8);
  show(one, 0, 0, chosen);
  show(one, 0, 1, chosen);
  const RememberedChoices first = one.remembered(0);
  // About an eighth.
  EXPECT_GT(first.token.size(), 60u);
  EXPECT_LT(first.token.size(), 140u);
  RoutingProbe other(kExperts, 1, 8);
  show(other, 0, 1, chosen);
  const RememberedChoices second = other.remembered(0);
  EXPECT_TRUE(std::equal(second.token.rbegin(), second.token.rend(), first.token.rbegin()));
}

TEST(RememberedChoices, OfNoTokenAreEmpty) {
  RoutingProbe probe(kExperts, 1, 0);
  show(probe, 0, 0, {0, 1});
  EXPECT_THAT(probe.remembered(1).token, IsEmpty());
}

TEST(RememberedChoices, TellHowManyTokensFlipped) {
  SingleRank alone;
  RoutingProbe before(kExperts, 1, 1);
  show(before, 0, 0, {0, 1, 1, 2, 0, 3});
  RoutingProbe after(kExperts, 1, 1);
  show(after, 0, 0, {0, 2, 1, 2, 1, 3});
  const auto overlaps = compare_choices(before.remembered(1), after.remembered(2), alone);
  ASSERT_THAT(overlaps, SizeIs(1));
  EXPECT_DOUBLE_EQ(overlaps[0].saturation(), 2.0 / 3.0);
  EXPECT_EQ(overlaps[0].changed, 2);
}

TEST(RememberedChoices, OfOtherTokensAreNotCompared) {
  SingleRank alone;
  RoutingProbe before(kExperts, 1, 1);
  show(before, 0, 0, {0, 1});
  RoutingProbe after(kExperts, 1, 1);
  show(after, 0, 1, {0, 1});
  EXPECT_THAT(compare_choices(before.remembered(1), after.remembered(2), alone), IsEmpty());
  EXPECT_THAT(compare_choices({}, after.remembered(2), alone), IsEmpty());
}

TEST(RememberedChoices, SurviveACheckpoint) {
  RoutingProbe probe(kExperts, 1, 1);
  show(probe, 0, 0, {0, 1, 3, 2});
  RememberedChoices choices = probe.remembered(7);
  SaveVisitor save;
  choices.visit_state(save);
  const StateDict state = save.take();
  RememberedChoices back;
  LoadVisitor load(state, "test");
  back.visit_state(load);
  load.finish();
  EXPECT_EQ(back.step, 7);
  EXPECT_EQ(back.token, choices.token);
  EXPECT_EQ(back.width, choices.width);
  EXPECT_EQ(back.expert, choices.expert);
}

}  // namespace
}  // namespace sluice
