#include <gtest/gtest.h>

#include "autograd/core/gradcheck.h"
#include "autograd/ops/reshape.h"
#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::f1_logits;
using testing::layout_of;
using testing::make_one;
using testing::RoutedBatch;

class NullExpertLoss : public ::testing::Test {
 protected:
  /// The loss of `selection` over 2 true and 2 null experts with probabilities p [4, 4].
  Tensor loss(Tape& tape, const Tensor& p, const Selection& selection) {
    const Tensor scores = slice_columns(tape, p, 0, 2);
    const RouterScores router{.logits = scores,
                              .scores = scores,
                              .probabilities = normalise_rows(tape, scores, 0.0),
                              .null_scores = slice_columns(tape, p, 2, 4)};
    const SequenceLayout layout = layout_of({4});
    const auto choose = [](std::span<const double>, Selection&) {};
    const Progress progress;
    const RouterInput input{router, layout, 2, progress, 4, 1, true, choose};
    const auto balancer = make_one("null_expert_loss", 2, {{"coefficient", 1.0}});
    std::vector<AuxiliaryLoss> losses;
    balancer->add_losses(tape, input, selection, nullptr, losses);
    return losses.at(0).value;
  }
  /// True experts twice each, and four null choices.
  static Selection balanced() {
    Selection selection{.tokens = 4, .experts = 2, .top_k = 2};
    selection.expert = {0, 1, kNoExpert, 0, 1, kNoExpert, kNoExpert, kNoExpert};
    selection.count_load(std::vector<uint8_t>(4, 1));
    return selection;
  }
  Pool pool_;
};

TEST_F(NullExpertLoss, SeesTheAverageUseOfNullExperts) {
  // c = (2, 2, 4, 0), P = (.25, .25, .40, .10): one at uniform average use, 1.3 were the null
  // experts told apart.
  const std::vector<double> row = {.25, .25, .40, .10};
  std::vector<double> p;
  for (int t = 0; t < 4; ++t) p.insert(p.end(), row.begin(), row.end());
  Tape tape(pool_);
  EXPECT_NEAR(loss(tape, Tensor::of<double>(pool_, {4, 4}, p), balanced()).item(), 1.0, 1e-15);
}

TEST_F(NullExpertLoss, WeighsTrueExpertsByTheirOwnLoad) {
  Selection selection = balanced();
  selection.expert = {0, 1, 0, kNoExpert, 0, kNoExpert, 0, kNoExpert};
  selection.count_load(std::vector<uint8_t>(4, 1));
  // f = (4, 1, 1.5, 1.5) / 8; P = (.4, .3, .2, .1).
  const std::vector<double> row = {.4, .3, .2, .1};
  std::vector<double> p;
  for (int t = 0; t < 4; ++t) p.insert(p.end(), row.begin(), row.end());
  Tape tape(pool_);
  const double expected = 4.0 * (4.0 * .4 + 1.0 * .3 + 1.5 * .3) / 8.0;
  EXPECT_NEAR(loss(tape, Tensor::of<double>(pool_, {4, 4}, p), selection).item(), expected, 1e-15);
}

TEST_F(NullExpertLoss, GradientAgreesWithDifferences) {
  SampleFactory factory(pool_, DType::f64);
  const OpSample sample = {
      .label = "null_expert_loss",
      .inputs = {factory.uniform({4, 4}, -1.0, 1.0)},
      .differentiable = {true},
      .apply = [&](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
        return {loss(tape, softmax(tape, in[0]), balanced())};
      }};
  const GradcheckReport report = gradcheck(pool_, sample);
  EXPECT_TRUE(report.passed) << report.message;
}

TEST_F(NullExpertLoss, WithoutNullExpertsIsTheAuxiliaryLoss) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, Tensor::of<double>(pool_, {4, 4}, f1_logits()), layout_of({4}),
                          {.top_k = 2});
  const auto plain = make_one("aux_loss", 4, {{"coefficient", 1.0}});
  const auto ours = make_one("null_expert_loss", 4, {{"coefficient", 1.0}});
  const Selection selection = batch.route(*plain);
  EXPECT_EQ(batch.loss(tape, *ours, selection).item(), batch.loss(tape, *plain, selection).item());
}

}  // namespace
}  // namespace sluice
