#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/layers/routers/routed.h"

namespace sluice {
namespace {

using testing::Routed;

class Extended : public testing::RouterFixture {};

TEST_F(Extended, WithoutACorrectionIsTheTopKRouter) {
  make_of_logits("top_k");
  const Tensor x = random_rows(20, 4);
  const Routed plain = route(x, 2);
  make_of_logits("extended", {{"calibration", 16}});
  const Routed extended = route(x, 2);
  EXPECT_EQ(extended.selection, plain.selection);
  EXPECT_EQ(extended.weights, plain.weights) << "A2 = 0: c = p, bit for bit";
}

TEST_F(Extended, WeighsByCorrectedScoresAndChoosesByScores) {
  make_of_logits("extended", {{"calibration", 1}});
  set("calibration_in", {1.0, 0.0, 0.0, 0.0});
  set("calibration_out", {0.0, 5.0, 0.0, 0.0});
  const Routed routed = route(logarithms({0.4, 0.3, 0.2, 0.1}, 4), 2);
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{0, 1}));
  // c_1 = 0.3 + 5 gelu(0.4)
  const double inner = 0.4;
  const double gelu =
      0.5 * inner *
      (1.0 + std::tanh(std::sqrt(2.0 / M_PI) * (inner + 0.044715 * std::pow(inner, 3))));
  const double c1 = 0.3 + 5.0 * gelu;
  EXPECT_NEAR(routed.weights[0], 0.4 / (0.4 + c1), 1e-12);
  EXPECT_NEAR(routed.weights[1], c1 / (0.4 + c1), 1e-12);
}

TEST_F(Extended, PassesOverTheNewestWhileTheyAreMasked) {
  const nlohmann::json options = {{"num_new", 2}, {"masked", "10 steps"}};
  make_of_logits("extended", options);
  const Tensor x = rows({0.0, 1.0, 9.0, 8.0}, 4);
  const Routed masked = route(x, 2, {.progress = {.step = 9}});
  EXPECT_EQ(masked.selection.expert, (std::vector<int32_t>{1, 0}));
  EXPECT_NEAR(masked.weights[0], 1.0 / (1.0 + std::exp(-1.0)), 1e-12) << "softmax over the old";
  // Not even a balancer's shift brings them in.
  const Routed shifted =
      route(x, 2, {.progress = {.step = 9}, .shift = {0.0, 0.0, 100.0, 100.0}});
  EXPECT_EQ(shifted.selection.expert, masked.selection.expert);
  const Routed later = route(x, 2, {.progress = {.step = 10}});
  EXPECT_EQ(later.selection.expert, (std::vector<int32_t>{2, 3}));
}

TEST_F(Extended, HasTheGradientOfDifferences) {
  make("extended", {{"calibration", 3}, {"num_new", 1}},
       {.experts = 4, .hidden_size = 5, .top_k = 2});
  Tensor& second = parameter("calibration_out").value;
  second.copy_from(SampleFactory(pool_, DType::f64, 9).uniform(second.shape()));
  expect_gradient(random_rows(6, 5), 2);
}

TEST_F(Extended, RefusesWhatLeavesNoExperts) {
  const auto check = [](const nlohmann::json& fields) {
    const auto config = router_registry().at("extended").make_config();
    testing::set_fields(*config, fields);
    return config->check() + dynamic_cast<const RouterConfig&>(*config).check_against(4, 2);
  };
  EXPECT_EQ(check({{"num_new", 2}, {"masked", "3 steps"}}), "");
  EXPECT_THAT(check({{"num_new", 4}}), ::testing::HasSubstr("num_new: found 4, allowed 1 to 3"));
  EXPECT_THAT(check({{"num_new", 3}, {"masked", "3 steps"}}),
              ::testing::HasSubstr("masked: given, but top_k is 2"));
  EXPECT_THAT(check({{"scores", "sigmoid"}}), ::testing::HasSubstr("allowed softmax"));
}

}  // namespace
}  // namespace sluice
