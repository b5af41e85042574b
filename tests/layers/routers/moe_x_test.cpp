#include "layers/experts/swiglu.h"
#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class MoeX : public testing::RouterFixture {
 protected:
  /// Experts whose neurons' input weights are `weights` [E, F, D].
  void make_for(int64_t experts, int64_t neurons, int64_t width,
                const std::vector<double>& weights) {
    experts_ = std::make_unique<SwigluExperts>(Builder(pool_, DType::f64, 1, init_, 1),
                                               ExpertsSetup{experts, width, neurons});
    experts_->parameters()[0]->value.copy_from(
        Tensor::of<double>(pool_, {experts, neurons, width}, weights));
    make("moe_x", nlohmann::json::object(),
         {.experts = experts, .hidden_size = width, .weights_of = experts_.get()});
  }
  std::unique_ptr<SwigluExperts> experts_;
};

TEST_F(MoeX, ScoresByTheExpectedShareOfIdleNeurons) {
  // Two neurons at mean +- .5 in every coordinate: means (.1, 0, .05), (-.1, .1, -.05).
  make_for(2, 2, 3, {.6, .5, .55, -.4, -.5, -.45, .4, .6, .45, -.6, -.4, -.55});
  const auto routed = route(rows({1.0, -2.0, 2.0}, 3), 2);
  const auto a = testing::numbers(routed.scores.logits);
  EXPECT_NEAR(a[0], -.106070, testing::kPrinted);
  EXPECT_NEAR(a[1], .210274, testing::kPrinted);
  EXPECT_NEAR((1.0 - a[0]) / 2.0, .553035, testing::kPrinted);
  EXPECT_NEAR((1.0 - a[1]) / 2.0, .394863, testing::kPrinted);
  const auto p = testing::numbers(routed.scores.probabilities);
  EXPECT_NEAR(p[0], .421567, testing::kPrinted);
  EXPECT_NEAR(p[1], .578433, testing::kPrinted);
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{1, 0}));
  EXPECT_NEAR(routed.weights[0], .578433, testing::kPrinted);
}

TEST_F(MoeX, PredictsTheShareOfActiveNeurons) {
  constexpr int64_t kExperts = 12;
  constexpr int64_t kNeurons = 256;
  constexpr int64_t kWidth = 24;
  constexpr int64_t kTokens = 40;
  const RandomKey key{3, RandomPurpose::test, 0, 0};
  std::vector<double> weights;
  for (int64_t e = 0; e < kExperts; ++e) {
    for (int64_t i = 0; i < kNeurons * kWidth; ++i) {
      const double mean = 0.1 * normal(key, 1, static_cast<uint64_t>(e * kWidth + i % kWidth));
      weights.push_back(mean +
                        0.2 * normal(key, 2, static_cast<uint64_t>(e * kNeurons * kWidth + i)));
    }
  }
  make_for(kExperts, kNeurons, kWidth, weights);
  const Tensor x = random_rows(kTokens, kWidth);
  const auto a = testing::numbers(route(x, 2).scores.logits);
  const auto values = testing::numbers(x);
  std::vector<double> measured;
  for (int64_t t = 0; t < kTokens; ++t) {
    for (int64_t e = 0; e < kExperts; ++e) {
      int64_t active = 0;
      for (int64_t f = 0; f < kNeurons; ++f) {
        double h = 0.0;
        for (int64_t d = 0; d < kWidth; ++d) {
          h += weights[static_cast<size_t>((e * kNeurons + f) * kWidth + d)] *
               values[static_cast<size_t>(t * kWidth + d)];
        }
        active += h > 0.0 ? 1 : 0;
      }
      measured.push_back(static_cast<double>(active) / kNeurons);
    }
  }
  double mean_error = 0.0;
  double xy = 0.0, xx = 0.0, yy = 0.0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double predicted = (1.0 - a[i]) / 2.0;
    mean_error += std::abs(predicted - measured[i]) / static_cast<double>(a.size());
    xy += (predicted - 0.5) * (measured[i] - 0.5);
    xx += std::pow(predicted - 0.5, 2);
    yy += std::pow(measured[i] - 0.5, 2);
    EXPECT_LE(std::abs(a[i]), 1.0);
  }
  EXPECT_LT(mean_error, 0.05);
  EXPECT_GT(xy / std::sqrt(xx * yy), 0.9);
}

TEST_F(MoeX, DoesNotSeeTheSizeOfATokenAndSurvivesZeros) {
  make_for(2, 2, 3, {.6, .5, .55, -.4, -.5, -.45, .4, .6, .45, -.6, -.4, -.55});
  const auto one = testing::numbers(route(rows({1.0, -2.0, 2.0}, 3), 2).scores.logits);
  const auto ten = testing::numbers(route(rows({10.0, -20.0, 20.0}, 3), 2).scores.logits);
  const auto zero = testing::numbers(route(rows({0.0, 0.0, 0.0}, 3), 2).scores.logits);
  for (size_t e = 0; e < 2; ++e) {
    EXPECT_NEAR(one[e], ten[e], 1e-11);
    EXPECT_EQ(zero[e], 0.0);
  }
}

TEST_F(MoeX, GradientAgreesWithDifferencesAndStopsAtTheExperts) {
  experts_ = std::make_unique<SwigluExperts>(Builder(pool_, DType::f64, 1, init_, 1),
                                             ExpertsSetup{6, 5, 7});
  for (Parameter* p : experts_->parameters()) p->zero_grad(pool_);
  make("moe_x", nlohmann::json::object(),
       {.experts = 6, .hidden_size = 5, .top_k = 3, .weights_of = experts_.get()});
  EXPECT_TRUE(router_->parameters().empty());
  expect_gradient(random_rows(6, 5), 3);
  for (const Parameter* p : experts_->parameters()) EXPECT_TRUE(p->grad_is_zero);
}

TEST_F(MoeX, WantsExpertsWithNeurons) {
  EXPECT_THROW(make("moe_x", nlohmann::json::object(), Setup{}), ConfigError);
}

}  // namespace
}  // namespace sluice
