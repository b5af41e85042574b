#include <cmath>

#include "tests/balance/loss_gradient.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::loss_of;
using testing::make_one;
using testing::ScoreFunction;

constexpr double kPrinted = 6e-7;

class MutualInformation : public ::testing::Test {
 protected:
  double of_probabilities(const std::vector<double>& p, int64_t rows) {
    const int64_t experts = static_cast<int64_t>(p.size()) / rows;
    const auto balancer = make_one("mutual_information", experts, {{"coefficient", 1.0}});
    return loss_of(pool_, *balancer, Tensor::of<double>(pool_, {rows, experts}, p),
                   layout_of({rows}), {.top_k = 1, .scores = ScoreFunction::identity})
        .value;
  }
  Pool pool_;
};

TEST_F(MutualInformation, AgreesWithTheWorkedExamples) {
  EXPECT_NEAR(of_probabilities({1, 0, 1, 0, 0, 1, 0, 1}, 4), -0.693147, kPrinted);
  EXPECT_NEAR(of_probabilities(std::vector<double>(8, 0.5), 4), 0.0, kPrinted);
  EXPECT_NEAR(of_probabilities({0.9, 0.1, 0.8, 0.2, 0.2, 0.8, 0.1, 0.9}, 4), -0.280404, kPrinted);
  const auto balancer = make_one("mutual_information", 4, {{"coefficient", 0.5}});
  const Tensor f1 = Tensor::of<double>(pool_, {4, 4}, f1_logits());
  EXPECT_NEAR(loss_of(pool_, *balancer, f1, layout_of({4}), {.top_k = 2}).value, 0.5 * -0.303453,
              kPrinted);
  EXPECT_NEAR(loss_of(pool_, *balancer, f1, layout_of({4}), {.top_k = 2, .valid_tokens = 8}).value,
              0.25 * -0.303453, kPrinted);
}

TEST_F(MutualInformation, LiesBetweenMinusTheLogarithmOfTheExpertsAndZero) {
  for (const uint64_t seed : {1, 2, 3, 4}) {
    SampleFactory factory(pool_, DType::f64, seed);
    const auto balancer = make_one("mutual_information", 6, {{"coefficient", 1.0}});
    const double loss =
        loss_of(pool_, *balancer, factory.uniform({9, 6}, -6.0, 6.0), layout_of({9}), {.top_k = 2})
            .value;
    EXPECT_GE(loss, -std::log(6.0));
    EXPECT_LE(loss, 0.0);
  }
}

TEST_F(MutualInformation, HasTheGradientOfItsValue) {
  const auto balancer = make_one("mutual_information", 4, {{"coefficient", 1.0}});
  testing::expect_loss_gradients(pool_, *balancer);
}

TEST_F(MutualInformation, IsTheSumOfTheEntropyLossesToSharpenAndToSpread) {
  SampleFactory factory(pool_, DType::f64);
  const Tensor z = factory.uniform({8, 4}, -2.0, 2.0);
  const auto loss = [&](const std::string& type, const nlohmann::json& options) {
    const auto balancer = make_one(type, 4, options);
    return loss_of(pool_, *balancer, z, testing::masked_layout(), {.top_k = 2, .valid_tokens = 20})
        .value;
  };
  EXPECT_NEAR(loss("mutual_information", {{"coefficient", 1.0}}),
              loss("entropy_loss", {{"coefficient", 1.0}, {"goal", "sharpen"}}) +
                  loss("entropy_loss", {{"coefficient", 1.0}, {"goal", "spread"}}),
              1e-15);
}

}  // namespace
}  // namespace sluice
