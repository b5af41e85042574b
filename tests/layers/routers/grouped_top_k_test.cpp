#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class GroupedTopK : public testing::RouterFixture {
 protected:
  static nlohmann::json groups(int64_t count) { return {{"num_groups", count}}; }
};

const std::vector<double> kScores = {.5,  .3,  .15, .05, .1,  .2,  .4,  .3,
                                     .45, .35, .12, .08, .25, .15, .20, .40};

TEST_F(GroupedTopK, TakesTheBestOfEveryGroupWithItsGlobalScore) {
  make_of_logits("grouped_top_k", groups(2));
  const auto routed = route(logarithms(kScores, 4), 2);
  // The page lists them by group; ours come best first.
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{0, 2, 2, 1, 0, 2, 3, 0}));
  EXPECT_EQ(routed.selection.load, (std::vector<int64_t>{3, 1, 3, 1}));
  const std::vector<double> expected = {.5, .15, .4, .2, .45, .12, .4, .25};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(routed.weights[i], expected[i], testing::kPrinted);
  }
}

TEST_F(GroupedTopK, LossOfTheGlobalScoresAgreesWithTheWorkedExample) {
  make_of_logits("grouped_top_k", groups(2));
  const auto routed = route(logarithms(kScores, 4), 2);
  const auto p = testing::numbers(routed.scores.probabilities);
  double loss = 0.0;
  for (size_t e = 0; e < 4; ++e) {
    double mean = 0.0;
    for (size_t t = 0; t < 4; ++t) mean += p[4 * t + e] / 4.0;
    loss += 4.0 * static_cast<double>(routed.selection.load[e]) / 8.0 * mean;
  }
  EXPECT_NEAR(loss, 1.0425, testing::kPrinted);
}

TEST_F(GroupedTopK, GivesEveryGroupTheSameNumberOfAssignments) {
  make_of_logits("grouped_top_k", groups(4), {.experts = 16, .top_k = 8});
  const auto routed = route(random_rows(50, 16), 8);
  for (size_t t = 0; t < 50; ++t) {
    std::vector<int> of_group(4, 0);
    for (size_t j = 0; j < 8; ++j) {
      ++of_group[static_cast<size_t>(routed.selection.expert[8 * t + j] / 4)];
    }
    EXPECT_EQ(of_group, (std::vector<int>{2, 2, 2, 2}));
  }
}

TEST_F(GroupedTopK, WithOneGroupIsTopK) {
  const Tensor x = random_rows(20, 4);
  make_of_logits("grouped_top_k", groups(1));
  const auto grouped = route(x, 2);
  make_of_logits("top_k", {{"weights", "as_is"}});
  const auto plain = route(x, 2);
  EXPECT_EQ(grouped.selection, plain.selection);
  EXPECT_EQ(grouped.weights, plain.weights);
}

TEST_F(GroupedTopK, KeepsItsGroupsUnderAShiftAndWithNaN) {
  make_of_logits("grouped_top_k", groups(2));
  const auto shifted = route(logarithms(kScores, 4), 2, {.shift = {0.0, 9.0, 0.0, 9.0}});
  for (size_t t = 0; t < 4; ++t) {
    EXPECT_EQ(shifted.selection.expert[2 * t] + shifted.selection.expert[2 * t + 1], 1 + 3);
  }
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const auto broken = route(rows({nan, nan, 1.0, 2.0}, 4), 2);
  EXPECT_LT(std::min(broken.selection.expert[0], broken.selection.expert[1]), 2);
  EXPECT_GE(std::max(broken.selection.expert[0], broken.selection.expert[1]), 2);
}

TEST_F(GroupedTopK, BetweenMultiplesOfTheGroupsTakesTheBestOfTheCandidates) {
  make_of_logits("grouped_top_k", groups(2));
  // Three of the two best of both groups of (.5 .3 | .15 .05).
  const auto routed = route(logarithms({.5, .3, .15, .05}, 4), 3);
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{0, 1, 2}));
}

TEST_F(GroupedTopK, GradientAgreesWithDifferences) {
  make_of_logits("grouped_top_k", groups(2), {.experts = 8, .top_k = 4});
  expect_gradient(random_rows(6, 8), 4);
}

TEST_F(GroupedTopK, RefusesGroupsThatDoNotDivide) {
  const auto config = router_registry().at("grouped_top_k").make_config();
  auto& router = dynamic_cast<RouterConfig&>(*config);
  EXPECT_EQ(router.check_against(16, 4), "");
  testing::set_fields(*config, groups(3));
  EXPECT_EQ(router.check_against(16, 3),
            "router.num_groups: found 3, allowed a divisor of num_experts (16)");
  EXPECT_EQ(router.check_against(12, 4),
            "top_k: found 4, allowed a multiple of router.num_groups (3)");
}

}  // namespace
}  // namespace sluice
