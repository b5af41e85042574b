#include <gtest/gtest.h>

#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::make_one;
using testing::RoutedBatch;
using testing::ScoreFunction;

constexpr double kPrinted = 6e-7;

class AuxLoss : public ::testing::Test {
 protected:
  Tensor f1() { return Tensor::of<double>(pool_, {4, 4}, f1_logits()); }
  Pool pool_;
};

TEST_F(AuxLoss, TakesTheLoadOfTheMicroBatch) {
  Tape tape(pool_);
  const auto balancer = make_one("aux_loss", 4, {{"coefficient", 0.5}});
  const RoutedBatch batch(tape, f1(), layout_of({4}), {.top_k = 2});
  const Selection selection = batch.route(*balancer);
  EXPECT_EQ(selection.load, (std::vector<int64_t>{3, 2, 2, 1}));
  EXPECT_NEAR(batch.loss(tape, *balancer, selection).item(), 0.5 * 1.184806, kPrinted);
}

TEST_F(AuxLoss, OfNormalisedSigmoidScoresAgreesWithTheWorkedExample) {
  Tape tape(pool_);
  const auto balancer = make_one("aux_loss", 4, {{"coefficient", 1.0}});
  const RoutedBatch batch(tape, f1(), layout_of({4}),
                          {.top_k = 2, .scores = ScoreFunction::sigmoid});
  EXPECT_NEAR(batch.loss(tape, *balancer, batch.route(*balancer)).item(), 1.072565, kPrinted);
}

TEST_F(AuxLoss, BesideABiasSeesTheExecutedLoadOrTheUnbiasedOne) {
  for (const auto& [selection, expected] :
       std::vector<std::pair<std::string, double>>{{"executed", 1.0}, {"unbiased", 1.184806}}) {
    const std::vector<Tagged> methods = {
        testing::method("loss_free_bias", {{"rate", 10.0}}),
        testing::method("aux_loss", {{"coefficient", 1.0}, {"selection", selection}})};
    const auto balancer = make_balancer(methods, {.layer = 0, .experts = 4, .top_k = 2});
    // Pushes every token to experts 0 and 3: f = (0.5, 0, 0, 0.5).
    balancer->end_step(testing::load_of({0, 2, 2, 0}), {});
    Tape tape(pool_);
    const RoutedBatch batch(tape, f1(), layout_of({4}), {.top_k = 2});
    const Selection chosen = batch.route(*balancer);
    ASSERT_EQ(chosen.load, (std::vector<int64_t>{4, 0, 0, 4}));
    const double loss = batch.loss(tape, *balancer, chosen).item();
    // 4 (0.5 P_0 + 0.5 P_3) with P of the fixture.
    const double executed = 2.0 * (0.454304 + 0.084692);
    EXPECT_NEAR(loss, selection == "executed" ? executed : expected, 4e-6) << selection;
  }
}

TEST_F(AuxLoss, CanCountOnlyTheFirstChoices) {
  Tape tape(pool_);
  const auto balancer = make_one("aux_loss", 4, {{"coefficient", 1.0}, {"choices", "first"}});
  const RoutedBatch batch(tape, f1(), layout_of({4}), {.top_k = 2});
  EXPECT_NEAR(batch.loss(tape, *balancer, batch.route(*balancer)).item(), 1.369611, kPrinted);
}

TEST_F(AuxLoss, OfFractionsOfTokensIsLargerByTheExpertsPerToken) {
  Tape tape(pool_);
  const auto balancer = make_one("aux_loss", 4, {{"coefficient", 1.0}, {"fractions", "tokens"}});
  const RoutedBatch batch(tape, f1(), layout_of({4}), {.top_k = 2});
  Selection selection = batch.route(*balancer);
  EXPECT_NEAR(batch.loss(tape, *balancer, selection).item(), 2.0 * 1.184806, 2.0 * kPrinted);
  // The last two tokens keep their best expert only: 6 assignments to 4 tokens.
  selection.expert[5] = selection.expert[7] = kNoExpert;
  const auto of_assignments = make_one("aux_loss", 4, {{"coefficient", 1.0}});
  EXPECT_NEAR(batch.loss(tape, *balancer, selection).item(),
              1.5 * batch.loss(tape, *of_assignments, selection).item(), 1e-14);
}

TEST_F(AuxLoss, KeepsNoState) {
  const auto balancer = make_one("aux_loss", 4);
  EXPECT_TRUE(testing::state_of(*balancer).empty());
  EXPECT_FALSE(balancer->traits().selects);
  EXPECT_FALSE(balancer->traits().batch_dependent);
}

}  // namespace
}  // namespace sluice
