#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class DenseToSparse : public testing::RouterFixture {
 protected:
  static int64_t active(const Selection& selection) {
    return static_cast<int64_t>(selection.expert.size()) -
           std::count(selection.expert.begin(), selection.expert.end(), kNoExpert);
  }
  static nlohmann::json quiet(double temperature) {
    return {{"temperature", temperature}, {"noise", 0.0}};
  }
  [[nodiscard]] Tensor ladder() { return rows({2.0, 1.0, 0.0, -1.0}, 4); }
};

const testing::PassOptions kTraining = {.training = true};

TEST_F(DenseToSparse, UsesFewerExpertsAsTheTemperatureFalls) {
  const std::vector<std::pair<double, int64_t>> published = {
      {2.0, 4}, {1.0, 4}, {0.5, 4}, {0.3, 3}, {0.1, 1}};
  for (const auto& [temperature, count] : published) {
    make_of_logits("dense_to_sparse", quiet(temperature));
    EXPECT_EQ(active(route(ladder(), 4, kTraining).selection), count) << temperature;
  }
}

TEST_F(DenseToSparse, IsDenseAndEvenAtAnEndlessTemperature) {
  make_of_logits("dense_to_sparse", quiet(1e9));
  const auto routed = route(ladder(), 4, kTraining);
  EXPECT_EQ(active(routed.selection), 4);
  for (const double g : testing::numbers(routed.scores.scores)) EXPECT_NEAR(g, 0.25, 1e-8);
}

TEST_F(DenseToSparse, GateIsTheSoftmaxAtTheTemperature) {
  make_of_logits("dense_to_sparse", quiet(0.3));
  const auto gate = testing::numbers(route(ladder(), 4, kTraining).scores.scores);
  const std::vector<double> expected = {.964328, .034401, .001227, .000044};
  for (size_t e = 0; e < 4; ++e) EXPECT_NEAR(gate[e], expected[e], testing::kPrinted);
}

TEST_F(DenseToSparse, WeighsByTheSoftmaxOfTheLogitsOrByTheGate) {
  make_of_logits("dense_to_sparse", quiet(0.3));
  const auto softmax = route(ladder(), 4, kTraining);
  EXPECT_EQ(softmax.selection.expert, (std::vector<int32_t>{0, 1, 2, kNoExpert}));
  const std::vector<double> p = {.643914, .236883, .087144, 0.0};
  for (size_t j = 0; j < 4; ++j) EXPECT_NEAR(softmax.weights[j], p[j], testing::kPrinted);

  nlohmann::json options = quiet(0.3);
  options["weights"] = "gate";
  make_of_logits("dense_to_sparse", options);
  const auto gate = route(ladder(), 4, kTraining);
  const std::vector<double> g = {.964328, .034401, .001227, 0.0};
  for (size_t j = 0; j < 4; ++j) EXPECT_NEAR(gate.weights[j], g[j], testing::kPrinted);
}

TEST_F(DenseToSparse, UsesOneExpertFromTheGivenStepOn) {
  nlohmann::json options = quiet(1.0);
  options["one_expert_after"] = "10 steps";
  make_of_logits("dense_to_sparse", options);
  EXPECT_EQ(active(route(ladder(), 4, {.training = true, .progress = {.step = 9}}).selection), 4);
  const auto sparse = route(ladder(), 4, {.training = true, .progress = {.step = 10}});
  EXPECT_EQ(sparse.selection.expert, (std::vector<int32_t>{0, kNoExpert, kNoExpert, kNoExpert}));
}

TEST_F(DenseToSparse, EvaluatesWithTheBestExpertOrWithTheThreshold) {
  make_of_logits("dense_to_sparse", {{"temperature", 0.3}});
  const auto best = route(ladder(), 4);
  EXPECT_EQ(best.selection.expert, (std::vector<int32_t>{0, kNoExpert, kNoExpert, kNoExpert}));
  EXPECT_NEAR(best.weights[0], .643914, testing::kPrinted);
  make_of_logits("dense_to_sparse", {{"temperature", 0.3}, {"evaluation", "threshold"}});
  EXPECT_EQ(active(route(ladder(), 4).selection), 3);
}

TEST_F(DenseToSparse, AlwaysUsesTheBestAndNeverMoreThanTopK) {
  nlohmann::json options = quiet(1.0);
  options["threshold"] = 0.9;
  make_of_logits("dense_to_sparse", options);
  EXPECT_EQ(active(route(ladder(), 4, kTraining).selection), 1);
  make_of_logits("dense_to_sparse", quiet(2.0));
  EXPECT_EQ(active(route(ladder(), 2, kTraining).selection), 2);
}

TEST_F(DenseToSparse, NoiseIsGumbelAndKeyedBySequenceAndStep) {
  // The logits of g at temperature 1 differ from z by the noise, up to a constant per row; its
  // variance is that of Gumbel(0, 1), pi^2 / 6, times 1 - 1 / E.
  constexpr int64_t kTokens = 4000;
  make_of_logits("dense_to_sparse");
  const Tensor zero = Tensor::zeros(pool_, {kTokens, 4}, DType::f64);
  const auto noisy = [&](int64_t step) {
    return testing::numbers(
        route(zero, 4, {.training = true, .progress = {.step = step}}).scores.scores);
  };
  const auto gate = noisy(3);
  double variance = 0.0;
  for (size_t t = 0; t < kTokens; ++t) {
    double mean = 0.0;
    for (size_t e = 0; e < 4; ++e) mean += std::log(gate[4 * t + e]) / 4.0;
    for (size_t e = 0; e < 4; ++e) {
      variance += std::pow(std::log(gate[4 * t + e]) - mean, 2) / (3.0 * kTokens);
    }
  }
  EXPECT_NEAR(variance, 1.6449, 0.1);
  EXPECT_EQ(noisy(3), gate);
  EXPECT_NE(noisy(4), gate);
}

TEST_F(DenseToSparse, WithOneSlotDrawsAnExpertByTheSoftmaxAtAnyTemperature) {
  constexpr size_t kTokens = 4000;
  std::vector<double> logits;
  for (size_t t = 0; t < kTokens; ++t) logits.insert(logits.end(), {2.0, 1.0, 0.0, -1.0});
  const std::vector<double> p = {.643914, .236883, .087144, .032059};
  for (const double tau : {1.0, 0.5}) {
    make_of_logits("dense_to_sparse", {{"weights", "gate"}, {"temperature", tau}});
    const auto routed = route(rows(logits, 4), 1, kTraining);
    const auto gate = testing::numbers(routed.scores.scores);
    std::vector<double> share(4);
    for (size_t t = 0; t < kTokens; ++t) {
      const int32_t expert = routed.selection.expert[t];
      ASSERT_GE(expert, 0);
      share[static_cast<size_t>(expert)] += 1.0 / static_cast<double>(kTokens);
      EXPECT_EQ(routed.weights[t], gate[4 * t + static_cast<size_t>(expert)]);
    }
    // Four standard deviations of a frequency of 4000 draws.
    for (size_t e = 0; e < 4; ++e) {
      EXPECT_NEAR(share[e], p[e], 4.0 * std::sqrt(p[e] * (1.0 - p[e]) / kTokens)) << tau;
    }
  }
}

TEST_F(DenseToSparse, GradientAgreesWithDifferences) {
  for (const char* weights : {"softmax", "gate"}) {
    make("dense_to_sparse", {{"weights", weights}, {"temperature", 0.4}, {"threshold", 0.05}},
         {.experts = 6, .hidden_size = 5, .top_k = 6});
    expect_gradient(random_rows(6, 5), 6, kTraining);
    expect_gradient(random_rows(6, 5), 6);
  }
}

}  // namespace
}  // namespace sluice
