#include <gtest/gtest.h>

#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::method;
using testing::RoutedBatch;

constexpr double kPrinted = 6e-7;

class RouterZLoss : public ::testing::Test {
 protected:
  double loss(const nlohmann::json& options, int64_t layers) {
    const Tagged tagged = method("router_z_loss", options);
    const auto balancer =
        make_balancer({&tagged, 1}, {.layer = 0, .experts = 4, .top_k = 2, .layers = layers});
    Tape tape(pool_);
    const RoutedBatch batch(tape, Tensor::of<double>(pool_, {4, 4}, f1_logits()), layout_of({4}),
                            {.top_k = 2});
    return batch.loss(tape, *balancer, batch.route(*balancer)).item();
  }
  Pool pool_;
};

TEST_F(RouterZLoss, AgreesWithTheWorkedExample) {
  EXPECT_NEAR(loss({{"coefficient", 1.0}}, 6), 7.266053, kPrinted);
  EXPECT_NEAR(loss({}, 6), 7.266053e-3, 1e-3 * kPrinted);
}

TEST_F(RouterZLoss, IsAveragedOverLayersWhenAsked) {
  EXPECT_NEAR(loss({{"coefficient", 1.0}, {"layers", "mean"}}, 6), 7.266053 / 6, kPrinted);
}

TEST_F(RouterZLoss, SeesTheLogitsOfNullExperts) {
  // The four experts of the worked example, the last two of which do nothing.
  const std::vector<double> z = f1_logits();
  std::vector<double> true_logits;
  std::vector<double> null_logits;
  for (size_t i = 0; i < z.size(); ++i) (i % 4 < 2 ? true_logits : null_logits).push_back(z[i]);
  Tape tape(pool_);
  const Tensor logits = tape.input(Tensor::of<double>(pool_, {4, 2}, true_logits));
  const Tensor nulls = tape.input(Tensor::of<double>(pool_, {4, 2}, null_logits));
  const Tensor p = softmax(tape, logits);
  const RoutedBatch batch({.logits = logits,
                           .scores = p,
                           .probabilities = p,
                           .null_scores = softmax(tape, nulls),
                           .null_logits = nulls},
                          layout_of({4}), {.top_k = 2});
  const auto balancer = testing::make_one("router_z_loss", 2, {{"coefficient", 1.0}});
  const Tensor loss = batch.loss(tape, *balancer, batch.route(*balancer));
  EXPECT_NEAR(loss.item(), 7.266053, kPrinted);
  tape.backward(loss);
  for (const double g : tape.gradient(nulls).span<double>()) EXPECT_NE(g, 0.0);
}

TEST_F(RouterZLoss, IsReportedApartFromBalancingLosses) {
  const std::vector<Tagged> methods = {method("aux_loss"), method("router_z_loss")};
  const auto balancer = make_balancer(methods, {.layer = 0, .experts = 4, .top_k = 2});
  Tape tape(pool_);
  const RoutedBatch batch(tape, Tensor::of<double>(pool_, {4, 4}, f1_logits()), layout_of({4}),
                          {.top_k = 2});
  std::vector<AuxiliaryLoss> losses;
  balancer->add_losses(tape, batch.input(), batch.route(*balancer), nullptr, losses);
  ASSERT_EQ(losses.size(), 2U);
  EXPECT_EQ(losses[0].kind, LossKind::balance);
  EXPECT_EQ(losses[1].kind, LossKind::router_z);
}

}  // namespace
}  // namespace sluice
