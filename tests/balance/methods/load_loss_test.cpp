#include <gtest/gtest.h>

#include "autograd/core/gradcheck.h"
#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::make_one;
using testing::RoutedBatch;

class LoadLoss : public ::testing::Test {
 protected:
  static RouterScores scores(Tape& tape, const Tensor& clean, const Tensor& scale,
                             const Tensor& noisy) {
    const Tensor p = softmax(tape, noisy);
    return {noisy, p, p, clean, scale};
  }
  Tensor row(const std::vector<double>& values) {
    return Tensor::of<double>(pool_, {1, static_cast<int64_t>(values.size())}, values);
  }
  Pool pool_;
};

TEST_F(LoadLoss, IsTheSquaredVariationOfTheExpectedLoads) {
  Tape tape(pool_);
  const auto balancer = make_one("load_loss", 3, {{"coefficient", 0.1}});
  // Loads (0.884930, 0.080757, 0.008198) of the page's example, in a quarter of the global batch.
  const RoutedBatch batch(
      scores(tape, row({1.0, 0.5, 0.0}), row({0.5, 0.5, 0.5}), row({1.2, 0.3, 0.4})),
      layout_of({1}), {.top_k = 1, .valid_tokens = 4});
  const std::vector<double> load = {0.884930, 0.080757, 0.008198};
  const double mean = (load[0] + load[1] + load[2]) / 3.0;
  double variance = 0.0;
  for (const double x : load) variance += (x - mean) * (x - mean) / 2.0;
  EXPECT_NEAR(batch.loss(tape, *balancer, batch.route(*balancer)).item(),
              0.1 / 4.0 * variance / (mean * mean), 5e-7);  // loads of six digits
}

TEST_F(LoadLoss, HasTheGradientOfItsValue) {
  SampleFactory factory(pool_, DType::f64);
  const Tensor clean = factory.uniform({6, 4}, -1.0, 1.0);
  const Tensor scale = factory.uniform({6, 4}, 0.3, 1.0);
  const Tensor noisy = factory.uniform({6, 4}, -2.0, 2.0);
  SequenceLayout layout = layout_of({2, 4});
  layout.counted[3] = 0;
  for (const std::string variance : {"unbiased", "population"}) {
    const auto balancer = make_one("load_loss", 4, {{"coefficient", 1.0}, {"variance", variance}});
    const OpSample sample{
        .label = "load loss",
        .inputs = {clean, scale},
        .differentiable = {true, true},
        .apply = [&](Tape& tape, std::span<const Tensor> inputs) {
          const RoutedBatch batch(scores(tape, inputs[0], inputs[1], noisy), layout,
                                  {.top_k = 2, .valid_tokens = 9});
          return std::vector<Tensor>{batch.loss(tape, *balancer, batch.route(*balancer))};
        }};
    const GradcheckReport report = gradcheck(pool_, sample);
    EXPECT_TRUE(report.passed) << report.message;
  }
}

TEST_F(LoadLoss, NeedsNoiseAndAddsNothingWithoutIt) {
  const auto balancer = make_one("load_loss", 3);
  EXPECT_TRUE(balancer->traits().needs_noise);
  EXPECT_FALSE(make_one("importance_loss", 3)->traits().needs_noise);
  Tape tape(pool_);
  const RoutedBatch batch(tape, row({1.2, 0.3, 0.4}), layout_of({1}), {.top_k = 1});
  EXPECT_FALSE(batch.loss(tape, *balancer, batch.route(*balancer)).defined());
}

}  // namespace
}  // namespace sluice
