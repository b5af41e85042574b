#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

class Temperature : public testing::RouterFixture {};

TEST_F(Temperature, OfOneIsThePlainRouter) {
  make_of_logits("temperature");
  const auto gate = route(f1(), 2);
  make_of_logits("top_k");
  const auto plain = route(f1(), 2);
  EXPECT_EQ(gate.selection, plain.selection);
  EXPECT_EQ(gate.weights, plain.weights);
}

TEST_F(Temperature, DividesTheLogits) {
  // softmax((2, 1, 0, -1) / 0.3) is the page's third value of section 7.3.
  make_of_logits("temperature", {{"temperature", 0.3}});
  const auto routed = route(f1(), 4);
  const auto p = testing::numbers(routed.scores.probabilities);
  const std::vector<double> expected = {.964328, .034401, .001227, .000044};
  for (size_t e = 0; e < 4; ++e) EXPECT_NEAR(p[e], expected[e], testing::kPrinted);
}

TEST_F(Temperature, IsBlindToAFactorOnEverythingUnlessItHasAnActivation) {
  // (W, b, tau) and (c W, c b, c tau).
  const auto probabilities = [&](const char* activation, double factor) {
    make_of_logits("temperature", {{"activation", activation}, {"temperature", 0.7 * factor}});
    std::vector<double> weight = testing::numbers(parameter("weight").value);
    for (double& w : weight) w *= factor;
    set("weight", weight);
    set("bias", {0.3 * factor, 0.0, -0.2 * factor, 0.1 * factor});
    return testing::numbers(route(f1(), 2).scores.probabilities);
  };
  const auto distance = [&](const char* activation) {
    const auto one = probabilities(activation, 1.0);
    const auto three = probabilities(activation, 3.0);
    double largest = 0.0;
    for (size_t i = 0; i < one.size(); ++i) {
      largest = std::max(largest, std::abs(one[i] - three[i]));
    }
    return largest;
  };
  EXPECT_LT(distance("none"), 1e-14);
  for (const char* activation : {"sigmoid", "tanh", "gelu"}) {
    EXPECT_GT(distance(activation), 1e-2) << activation;
  }
}

TEST_F(Temperature, GradientAgreesWithDifferencesForEveryActivation) {
  for (const char* activation : {"none", "sigmoid", "tanh", "gelu"}) {
    make("temperature", {{"activation", activation}, {"temperature", 0.5}},
         {.experts = 6, .hidden_size = 5, .top_k = 6});
    expect_gradient(random_rows(4, 5), 6);
  }
}

TEST_F(Temperature, BiasIsAParameterUnlessLeftOut) {
  make("temperature");
  EXPECT_EQ(router_->parameters().size(), 2U);
  EXPECT_EQ(parameter("bias").kind, ParameterKind::bias);
  make("temperature", {{"bias", false}});
  EXPECT_EQ(router_->parameters().size(), 1U);
}

}  // namespace
}  // namespace sluice
