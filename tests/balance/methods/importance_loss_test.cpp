#include "tests/balance/loss_gradient.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::loss_of;
using testing::make_one;

constexpr double kPrinted = 6e-7;

class ImportanceLoss : public ::testing::Test {
 protected:
  Tensor f1() { return Tensor::of<double>(pool_, {4, 4}, f1_logits()); }
  Pool pool_;
};

TEST_F(ImportanceLoss, AgreesWithTheWorkedExample) {
  struct Case {
    std::string of;
    std::string variance;
    double expected;
  };
  for (const Case& c : {Case{"gates", "unbiased", 0.444224},
                        {"gates", "population", 0.333168},
                        {"probabilities", "unbiased", 0.372539},
                        {"probabilities", "population", 0.279404}}) {
    const auto balancer = make_one("importance_loss", 4,
                                   {{"coefficient", 0.1}, {"of", c.of}, {"variance", c.variance}});
    EXPECT_NEAR(loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2}).value,
                0.1 * c.expected, 0.1 * kPrinted)
        << c.of << " " << c.variance;
  }
}

TEST_F(ImportanceLoss, WeighsByTheShareOfTheGlobalBatch) {
  const auto balancer = make_one("importance_loss", 4, {{"coefficient", 1.0}});
  EXPECT_NEAR(
      loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2, .valid_tokens = 16}).value,
      0.444224 / 4.0, kPrinted);
}

TEST_F(ImportanceLoss, IgnoresMaskedTokens) {
  std::vector<double> z = {5.0, -3.0, 1.0, 2.0};
  const auto fixture = f1_logits();
  z.insert(z.end(), fixture.begin(), fixture.end());
  SequenceLayout layout = layout_of({5});
  layout.counted[0] = 0;
  for (const std::string of : {"gates", "probabilities"}) {
    const auto balancer = make_one("importance_loss", 4, {{"coefficient", 1.0}, {"of", of}});
    const auto masked =
        loss_of(pool_, *balancer, Tensor::of<double>(pool_, {5, 4}, z), layout, {.top_k = 2});
    const auto plain = loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 2});
    EXPECT_NEAR(masked.value, plain.value, 1e-15);
    for (size_t e = 0; e < 4; ++e) EXPECT_EQ(masked.gradient[e], 0.0);
  }
}

TEST_F(ImportanceLoss, HasTheGradientOfItsValue) {
  for (const std::string of : {"gates", "probabilities"}) {
    for (const std::string variance : {"unbiased", "population"}) {
      const auto balancer = make_one("importance_loss", 4,
                                     {{"coefficient", 1.0}, {"of", of}, {"variance", variance}});
      testing::expect_loss_gradients(pool_, *balancer);
    }
  }
}

TEST_F(ImportanceLoss, HasAGradientForOneExpertPerToken) {
  const auto balancer = make_one("importance_loss", 4, {{"coefficient", 1.0}});
  const auto result = loss_of(pool_, *balancer, f1(), layout_of({4}), {.top_k = 1});
  EXPECT_NE(result.gradient[0], 0.0);
  testing::expect_loss_gradient(pool_, *balancer, f1(), layout_of({4}), {.top_k = 1});
}

TEST_F(ImportanceLoss, IsZeroForOneExpert) {
  const auto balancer = make_one("importance_loss", 1, {{"coefficient", 1.0}});
  const Tensor z = Tensor::of<double>(pool_, {3, 1}, std::vector<double>{1.0, -2.0, 0.5});
  EXPECT_EQ(loss_of(pool_, *balancer, z, layout_of({3}), {.top_k = 1}).value, 0.0);
}

TEST_F(ImportanceLoss, KeepsNoState) {
  const auto balancer = make_one("importance_loss", 4);
  EXPECT_TRUE(testing::state_of(*balancer).empty());
  EXPECT_FALSE(balancer->traits().selects);
}

}  // namespace
}  // namespace sluice
