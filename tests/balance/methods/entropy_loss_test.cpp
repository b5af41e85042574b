#include "tests/balance/loss_gradient.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::loss_of;
using testing::make_one;

constexpr double kPrinted = 6e-7;

class EntropyLoss : public ::testing::Test {
 protected:
  Tensor f1() { return Tensor::of<double>(pool_, {4, 4}, f1_logits()); }
  Pool pool_;
};

TEST_F(EntropyLoss, OfEachGoalAgreesWithTheWorkedExample) {
  for (const auto& [goal, expected] : std::vector<std::pair<std::string, double>>{
           {"sharpen", 0.940539}, {"spread", -1.243992}, {"concentrate", 1.243992}}) {
    const auto balancer = make_one("entropy_loss", 4, {{"coefficient", 0.5}, {"goal", goal}});
    EXPECT_NEAR(loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2}).value, 0.5 * expected,
                kPrinted)
        << goal;
    EXPECT_NEAR(
        loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2, .valid_tokens = 8}).value,
        0.25 * expected, kPrinted)
        << goal;
  }
}

TEST_F(EntropyLoss, HasTheGradientOfItsValue) {
  for (const std::string goal : {"sharpen", "spread", "concentrate"}) {
    const auto balancer = make_one("entropy_loss", 4, {{"coefficient", 1.0}, {"goal", goal}});
    testing::expect_loss_gradients(pool_, *balancer);
  }
}

TEST_F(EntropyLoss, OfTokensDoesNotDependOnTheCutIntoMicroBatches) {
  const auto balancer = make_one("entropy_loss", 4, {{"coefficient", 1.0}});
  const auto whole = loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2});
  const std::vector<double> rows = f1_logits();
  double sum = 0.0;
  for (size_t t = 0; t < 4; ++t) {
    const Tensor row = Tensor::of<double>(pool_, {1, 4}, std::span(rows).subspan(4 * t, 4));
    sum += loss_of(pool_, *balancer, row, layout_of({1}), {.top_k = 2, .valid_tokens = 4}).value;
  }
  EXPECT_NEAR(sum, whole.value, 1e-15);
}

TEST_F(EntropyLoss, IgnoresMaskedTokens) {
  std::vector<double> z = {5.0, -3.0, 1.0, 2.0};
  const auto fixture = f1_logits();
  z.insert(z.end(), fixture.begin(), fixture.end());
  SequenceLayout layout = layout_of({5});
  layout.counted[0] = 0;
  for (const std::string goal : {"sharpen", "spread"}) {
    const auto balancer = make_one("entropy_loss", 4, {{"coefficient", 1.0}, {"goal", goal}});
    const auto masked =
        loss_of(pool_, *balancer, Tensor::of<double>(pool_, {5, 4}, z), layout, {.top_k = 2});
    EXPECT_NEAR(masked.value, loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2}).value,
                1e-15);
    for (size_t e = 0; e < 4; ++e) EXPECT_EQ(masked.gradient[e], 0.0);
  }
}

TEST_F(EntropyLoss, DescentSharpensSpreadsOrConcentrates) {
  // A step along minus the gradient moves the mean probability of the largest expert as asked.
  const auto largest_after = [&](const std::string& goal) {
    const auto balancer = make_one("entropy_loss", 4, {{"coefficient", 1.0}, {"goal", goal}});
    std::vector<double> z = f1_logits();
    for (int step = 0; step < 20; ++step) {
      const auto result = loss_of(pool_, *balancer, Tensor::of<double>(pool_, {4, 4}, z),
                                  layout_of({4}), {.top_k = 2});
      for (size_t i = 0; i < z.size(); ++i) z[i] -= result.gradient[i];
    }
    Tape tape(pool_);
    const Tensor p = softmax(tape, Tensor::of<double>(pool_, {4, 4}, z));
    double mean = 0.0;
    for (size_t t = 0; t < 4; ++t) mean += p.span<double>()[4 * t] / 4.0;
    return mean;
  };
  EXPECT_LT(largest_after("spread"), 0.454304);
  EXPECT_GT(largest_after("concentrate"), 0.454304);
}

}  // namespace
}  // namespace sluice
