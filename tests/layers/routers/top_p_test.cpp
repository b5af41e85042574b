#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class TopP : public testing::RouterFixture {
 protected:
  /// Experts used by every token.
  static std::vector<int64_t> counts(const Selection& selection) {
    std::vector<int64_t> result(static_cast<size_t>(selection.tokens), 0);
    for (size_t slot = 0; slot < selection.expert.size(); ++slot) {
      result[slot / static_cast<size_t>(selection.top_k)] +=
          selection.expert[slot] != kNoExpert ? 1 : 0;
    }
    return result;
  }
  /// The choice from probabilities given exactly.
  Selection choose(double threshold, const std::vector<double>& p, int64_t k = 4) {
    make_of_logits("top_p", {{"threshold", threshold}});
    prepare(1, {});
    Tape tape(pool_);
    const Tensor probabilities = rows(p, 4);
    Selection selection;
    router_->choose(context_of(tape, {}), {probabilities, probabilities, probabilities}, {}, k,
                    selection);
    return selection;
  }
};

TEST_F(TopP, TakesExpertsUntilTheirProbabilitiesExceedTheThreshold) {
  const std::vector<double> p = {.5, .25, .15, .10};
  const std::vector<std::pair<double, int64_t>> published = {{.4, 1}, {.5, 2}, {.7, 2}, {.8, 3}};
  for (const auto& [threshold, k] : published) {
    EXPECT_EQ(counts(choose(threshold, p)), std::vector<int64_t>{k}) << threshold;
  }
  EXPECT_EQ(choose(.8, p).expert, (std::vector<int32_t>{0, 1, 2, kNoExpert}));
}

TEST_F(TopP, OfOneTakesAllAndOfZeroOne) {
  EXPECT_EQ(counts(choose(1.0, {1.0, 0.0, 0.0, 0.0})), std::vector<int64_t>{4});
  EXPECT_EQ(counts(choose(0.0, {.1, .2, .3, .4})), std::vector<int64_t>{1});
}

TEST_F(TopP, TakesNoMoreThanTopK) {
  EXPECT_EQ(counts(choose(.99, {.25, .25, .25, .25}, 2)), std::vector<int64_t>{2});
}

TEST_F(TopP, WeighsByTheProbabilityAndByZeroWhereNobodyIs) {
  make_of_logits("top_p", {{"threshold", 0.7}});
  const auto routed = route(f1(), 4);
  const auto p = testing::numbers(routed.scores.probabilities);
  for (size_t slot = 0; slot < 16; ++slot) {
    const int32_t expert = routed.selection.expert[slot];
    const double expected =
        expert == kNoExpert ? 0.0 : p[4 * (slot / 4) + static_cast<size_t>(expert)];
    EXPECT_EQ(routed.weights[slot], expected);
  }
  EXPECT_EQ(counts(routed.selection), (std::vector<int64_t>{2, 2, 1, 2}));
}

TEST_F(TopP, GathersMoreThanTheThresholdAndNotWithoutItsLast) {
  const Tensor x = random_rows(200, 8);
  std::vector<int64_t> before(200, 0);
  for (const double threshold : {0.2, 0.4, 0.6, 0.9}) {
    make_of_logits("top_p", {{"threshold", threshold}}, {.experts = 8, .top_k = 8});
    const auto routed = route(x, 8);
    const auto k = counts(routed.selection);
    for (size_t t = 0; t < 200; ++t) {
      double total = 0.0;
      for (size_t j = 0; j < static_cast<size_t>(k[t]); ++j) total += routed.weights[8 * t + j];
      EXPECT_GT(total, threshold);
      EXPECT_LE(total - routed.weights[8 * t + static_cast<size_t>(k[t]) - 1], threshold + 1e-15);
      EXPECT_GE(k[t], std::max<int64_t>(1, before[t]));
    }
    before = k;
  }
}

TEST_F(TopP, ShiftMovesTheRankingAndTheUnshiftedProbabilitiesFillIt) {
  make_of_logits("top_p", {{"threshold", 0.4}});
  const auto routed = route(logarithms({.5, .25, .15, .10}, 4), 4, {.shift = {0.0, 0.0, 0.0, 9.0}});
  // .10 first, then .5.
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{3, 0, kNoExpert, kNoExpert}));
}

TEST_F(TopP, RenormalisesWhereAsked) {
  make_of_logits("top_p", {{"threshold", 0.7}, {"weights", "renormalise"}});
  const auto routed = route(f1(), 4);
  for (size_t t = 0; t < 4; ++t) {
    double total = 0.0;
    for (size_t j = 0; j < 4; ++j) total += routed.weights[4 * t + j];
    EXPECT_NEAR(total, 1.0, 1e-15);
  }
}

TEST_F(TopP, GradientAgreesWithDifferences) {
  for (const char* weights : {"as_is", "renormalise"}) {
    make("top_p", {{"threshold", 0.6}, {"weights", weights}},
         {.experts = 8, .hidden_size = 5, .top_k = 8});
    expect_gradient(random_rows(6, 5), 8);
  }
}

TEST_F(TopP, RefusesWhatItCannotSum) {
  const auto problem = [](const nlohmann::json& options) {
    const auto config = router_registry().at("top_p").make_config();
    testing::set_fields(*config, options);
    return config->check();
  };
  EXPECT_EQ(problem({}), "");
  EXPECT_EQ(problem({{"scores", "sigmoid"}}),
            "scores: found sigmoid, allowed softmax (top_p sums probabilities)");
  EXPECT_EQ(problem({{"weights", "softmax_after"}}),
            "weights: found softmax_after, allowed as_is or renormalise (slots may be empty)");
}

}  // namespace
}  // namespace sluice
