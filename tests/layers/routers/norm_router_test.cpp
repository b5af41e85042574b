#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class NormRouterTest : public testing::RouterFixture {
 protected:
  /// c0, read off the scores of logits (1, 0, 0, ...): s = ReLU(1) gamma c0 with gamma 1.
  double constant(int64_t experts, int64_t k, const char* estimate = "mean") {
    make_of_logits("norm_router", {{"constant", estimate}}, {.experts = experts, .top_k = k});
    std::vector<double> first(static_cast<size_t>(experts), 0.0);
    first[0] = 1.0;
    return route(rows(first, experts), k).weights[0];
  }
};

TEST_F(NormRouterTest, NormalisesAndCutsAtZero) {
  make_of_logits("norm_router");
  const double c0 = route(rows({1.0, 0.0, 0.0, 0.0}, 4), 2).weights[0];
  const auto routed = route(rows({3.0, 4.0, 0.0, -12.0}, 4), 2);
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{1, 0}));
  const auto scores = testing::numbers(routed.scores.scores);
  const std::vector<double> expected = {.230769, .307692, 0.0, 0.0};
  for (size_t e = 0; e < 4; ++e) EXPECT_NEAR(scores[e] / c0, expected[e], testing::kPrinted);
  EXPECT_EQ(routed.weights[0], scores[1]);
  const auto p = testing::numbers(routed.scores.probabilities);
  EXPECT_NEAR(p[0] + p[1], 1.0, 1e-14);
}

TEST_F(NormRouterTest, ConstantMakesTheChosenWeightsOfLengthOne) {
  constexpr double kTolerance = 0.01;  // the page's
  const std::vector<std::tuple<int64_t, int64_t, double>> published = {
      {16, 1, 2.411}, {16, 2, 1.918}, {32, 4, 1.771}, {64, 8, 1.714}, {96, 1, 4.016}};
  for (const auto& [experts, k, value] : published) {
    EXPECT_NEAR(constant(experts, k) / value, 1.0, kTolerance) << experts << " " << k;
  }
}

TEST_F(NormRouterTest, ConstantOfFewExpertsIsFiniteAndItsMedianSteady) {
  EXPECT_NEAR(constant(8, 1, "median"), 1.869, 0.01 * 1.869);
  EXPECT_NEAR(constant(8, 1), 2.68, 0.11 * 3.0);
  EXPECT_TRUE(std::isfinite(constant(2, 1)));
}

TEST_F(NormRouterTest, DoesNotSeeTheSizeOfTheLogits) {
  make_of_logits("norm_router");
  const Tensor x = random_rows(5, 4);
  std::vector<double> scaled = testing::numbers(x);
  for (double& value : scaled) value *= 37.0;
  const auto small = testing::numbers(route(x, 2).scores.scores);
  const auto large = testing::numbers(route(rows(scaled, 4), 2).scores.scores);
  for (size_t i = 0; i < small.size(); ++i) EXPECT_NEAR(small[i], large[i], 1e-14);
}

TEST_F(NormRouterTest, GradientIsThatOfTheProjection) {
  // dL/dz = (I - u u^T) (dL/du) / |z|, with u = z / |z| and the gradient cut where u <= 0.
  make_of_logits("norm_router");
  const double c0 = route(rows({1.0, 0.0, 0.0, 0.0}, 4), 2).weights[0];
  const std::vector<double> u = {3.0 / 13.0, 4.0 / 13.0, 0.0, -12.0 / 13.0};
  const auto grad = gradient(rows({3.0, 4.0, 0.0, -12.0}, 4), 2, {0.5, 2.0});
  // Chosen: experts 1 and 0.
  const std::vector<double> grad_u = {2.0 * c0, 0.5 * c0, 0.0, 0.0};
  const double along = u[0] * grad_u[0] + u[1] * grad_u[1];
  for (size_t e = 0; e < 4; ++e) {
    EXPECT_NEAR(grad[e], (grad_u[e] - u[e] * along) / 13.0, 1e-13);
  }
}

TEST_F(NormRouterTest, AChosenExpertBelowZeroHasNoWeightAndNoGradient) {
  make_of_logits("norm_router");
  const auto routed = route(rows({-1.0, 2.0, -3.0, -4.0}, 4), 2);
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{1, 0}));
  EXPECT_EQ(routed.weights[1], 0.0);
  const auto grad = gradient(rows({-1.0, 2.0, -3.0, -4.0}, 4), 2, {0.0, 1.0});
  EXPECT_EQ(grad, (std::vector<double>{0.0, 0.0, 0.0, 0.0}));
}

TEST_F(NormRouterTest, GradientAgreesWithDifferencesAlsoInTheGain) {
  make("norm_router", {}, {.experts = 8, .hidden_size = 5, .top_k = 3});
  expect_gradient(random_rows(6, 5), 3);
  // s is linear in gamma: sum of grad * weights / gamma.
  parameter("gain").zero_grad(pool_);
  const Tensor x = random_rows(3, 5);
  const std::vector<double> ones(9, 1.0);
  (void)gradient(x, 3, ones);
  double sum = 0.0;
  for (const double weight : route(x, 3).weights) sum += weight;
  EXPECT_NEAR(parameter("gain").grad.item(), sum, 1e-12);
}

TEST_F(NormRouterTest, LogitsOfZeroGiveNeitherWeightsNorNaN) {
  make_of_logits("norm_router");
  const Tensor zero = rows({0.0, 0.0, 0.0, 0.0}, 4);
  EXPECT_EQ(route(zero, 2).weights, (std::vector<double>{0.0, 0.0}));
  for (const double grad : gradient(zero, 2, {1.0, 1.0})) EXPECT_EQ(grad, 0.0);
}

}  // namespace
}  // namespace sluice
