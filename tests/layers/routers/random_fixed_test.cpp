#include "layers/ffns/moe.h"
#include "tests/layers/routers/routed.h"
#include "tests/support/tiny_model.h"

namespace sluice {
namespace {

/// from + (to - from) min(step, over) / over
struct Ramp final : ScheduleShape {
  double from = 8.0;
  double to = 16.0;
  double over = 400000.0;
  void fields(FieldVisitor&) override {}
  [[nodiscard]] double value(const Progress& progress) const override {
    return std::lerp(from, to, std::min(1.0, static_cast<double>(progress.step) / over));
  }
  [[nodiscard]] Extremes extremes() const override { return {from, to}; }
};

class RandomFixed : public testing::RouterFixture {};

TEST_F(RandomFixed, WeighsByTheSoftmaxOverTheChosenLogits) {
  make_of_logits("random_fixed");
  const auto routed = route(f1(), 2);
  EXPECT_EQ(routed.selection.expert, (std::vector<int32_t>{0, 1, 1, 0, 0, 2, 2, 3}));
  EXPECT_NEAR(routed.weights[0], 0.731059, testing::kPrinted);
  EXPECT_NEAR(routed.weights[4], 0.880797, testing::kPrinted);
}

TEST_F(RandomFixed, NeverTrainsItsWeightButPassesAGradientToItsInput) {
  make("random_fixed", {}, {.experts = 8, .hidden_size = 5, .top_k = 3});
  EXPECT_FALSE(parameter("weight").trainable);
  const auto grad = gradient(random_rows(2, 5), 3, {1.0, 0.0, 0.0, 0.0, 1.0, 0.0});
  EXPECT_FALSE(parameter("weight").grad.defined());
  EXPECT_TRUE(std::ranges::any_of(grad, [](double g) { return g != 0.0; }));
  expect_gradient(random_rows(4, 5), 3);
}

TEST_F(RandomFixed, TakesAnyNumberOfExpertsUpToAll) {
  make("random_fixed", {}, {.experts = 8, .hidden_size = 5, .top_k = 8});
  for (const int64_t k : {1, 3, 8}) {
    const auto routed = route(random_rows(10, 5), k);
    EXPECT_EQ(routed.selection.top_k, k);
    double total = 0.0;
    for (int64_t j = 0; j < k; ++j) total += routed.weights[static_cast<size_t>(j)];
    EXPECT_NEAR(total, 1.0, 1e-12);
  }
}

TEST_F(RandomFixed, GrowingKIsRoundedHalfToEvenAsPublished) {
  ExpertsConfig config;
  config.num_experts = 16;
  config.top_k = Scheduled("linear", std::make_shared<Ramp>());
  const std::vector<std::pair<int64_t, int64_t>> published = {
      {0, 8}, {25000, 8}, {100000, 10}, {200000, 12}, {375000, 16}, {400000, 16}, {500000, 16}};
  for (const auto& [step, k] : published) EXPECT_EQ(config.top_k_at({.step = step}), k) << step;
}

}  // namespace
}  // namespace sluice
