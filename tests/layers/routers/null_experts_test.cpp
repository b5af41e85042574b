#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class NullExperts : public testing::RouterFixture {
 protected:
  static nlohmann::json nulls(int64_t count) { return {{"num_null_experts", count}}; }
  /// Two true and two null experts; the input is the logits of all four.
  void make_two_and_two() {
    make_of_logits("null_experts", nulls(2), {.experts = 2, .hidden_size = 4, .top_k = 2});
  }
};

const std::vector<double> kProbabilities = {.40, .30, .20, .10, .30, .10, .35, .25,
                                            .10, .45, .15, .30, .15, .20, .25, .40};

TEST_F(NullExperts, WeighTheTrueOnesAmongThemselves) {
  make_two_and_two();
  const auto routed = route(logarithms(kProbabilities, 4), 2);
  EXPECT_EQ(routed.selection.experts, 2);
  EXPECT_EQ(routed.selection.expert,
            (std::vector<int32_t>{0, 1, kNoExpert, 0, 1, kNoExpert, kNoExpert, kNoExpert}));
  EXPECT_EQ(routed.selection.load, (std::vector<int64_t>{2, 2}));
  const std::vector<double> expected = {.571429, .428571, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0};
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(routed.weights[i], expected[i], testing::kPrinted);
  }
}

TEST_F(NullExperts, ScoresOfTrueAndNullExpertsSumToOne) {
  make_two_and_two();
  const auto routed = route(random_rows(20, 4), 2);
  const auto scores = testing::numbers(routed.scores.scores);
  const auto nulls = testing::numbers(routed.scores.null_scores);
  const auto p = testing::numbers(routed.scores.probabilities);
  for (size_t t = 0; t < 20; ++t) {
    EXPECT_NEAR(scores[2 * t] + scores[2 * t + 1] + nulls[2 * t] + nulls[2 * t + 1], 1.0, 1e-14);
    EXPECT_NEAR(p[2 * t] + p[2 * t + 1], 1.0, 1e-14);
  }
}

TEST_F(NullExperts, LogitsOfTrueAndNullExpertsAreThoseOfAll) {
  make_two_and_two();
  const auto routed = route(rows({1, 2, 3, 4, 5, 6, 7, 8}, 4), 2);
  EXPECT_EQ(testing::numbers(routed.scores.logits), (std::vector<double>{1, 2, 5, 6}));
  EXPECT_EQ(testing::numbers(routed.scores.null_logits), (std::vector<double>{3, 4, 7, 8}));
}

TEST_F(NullExperts, AreInterchangeable) {
  make_two_and_two();
  const Tensor x = random_rows(30, 4);
  std::vector<double> swapped = testing::numbers(x);
  for (size_t t = 0; t < 30; ++t) std::swap(swapped[4 * t + 2], swapped[4 * t + 3]);
  const auto one = route(x, 2);
  const auto other = route(rows(swapped, 4), 2);
  EXPECT_EQ(one.selection, other.selection);
  for (size_t i = 0; i < one.weights.size(); ++i) {
    EXPECT_NEAR(one.weights[i], other.weights[i], 1e-15);
  }
}

TEST_F(NullExperts, NoneOfThemIsThePlainRouter) {
  const Tensor x = random_rows(30, 4);
  make_of_logits("null_experts", nulls(0));
  const auto none = route(x, 2);
  EXPECT_FALSE(none.scores.null_scores.defined());
  make_of_logits("top_k");
  const auto plain = route(x, 2);
  EXPECT_EQ(none.selection, plain.selection);
  for (size_t i = 0; i < none.weights.size(); ++i) {
    EXPECT_NEAR(none.weights[i], plain.weights[i], 1e-15);
  }
}

TEST_F(NullExperts, ShiftMovesTheTrueOnesOnly) {
  make_two_and_two();
  const auto routed = route(logarithms(kProbabilities, 4), 2, {.shift = {1.0, 1.0}});
  EXPECT_EQ(routed.selection.load, (std::vector<int64_t>{4, 4}));
}

TEST_F(NullExperts, GradientAgreesWithDifferences) {
  for (const char* weights : {"renormalise", "as_is"}) {
    make("null_experts", {{"num_null_experts", 3}, {"weights", weights}},
         {.experts = 4, .hidden_size = 5, .top_k = 3});
    expect_gradient(random_rows(8, 5), 3);
  }
}

TEST_F(NullExperts, ATokenWithoutTrueExpertsHasNoGradient) {
  make_two_and_two();
  // What combine() passes back to empty slots is 0.
  const auto grad = gradient(logarithms({.15, .20, .25, .40}, 4), 2, {0.0, 0.0});
  EXPECT_EQ(grad, (std::vector<double>{0.0, 0.0, 0.0, 0.0}));
}

}  // namespace
}  // namespace sluice
