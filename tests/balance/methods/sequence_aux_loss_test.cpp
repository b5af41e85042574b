#include <gtest/gtest.h>

#include <cmath>

#include "tests/balance/routed_batch.h"

namespace sluice {
namespace {

using testing::layout_of;
using testing::make_one;
using testing::RoutedBatch;

class SequenceAuxLoss : public ::testing::Test {
 protected:
  /// Two sequences of one token that use experts {0, 1} and {2, 3} with 0.8 of the probability.
  Tensor opposite_halves() {
    std::vector<double> p = {0.4, 0.4, 0.1, 0.1, 0.1, 0.1, 0.4, 0.4};
    for (double& x : p) x = std::log(x);
    return Tensor::of<double>(pool_, {2, 4}, p);
  }
  Pool pool_;
};

TEST_F(SequenceAuxLoss, PunishesSequencesThatOnlyTogetherAreBalanced) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, opposite_halves(), layout_of({1, 1}), {.top_k = 2});
  const auto sequence = make_one("sequence_aux_loss", 4, {{"coefficient", 1.0}});
  const auto whole = make_one("aux_loss", 4, {{"coefficient", 1.0}});
  const Selection selection = batch.route(*sequence);
  EXPECT_NEAR(batch.loss(tape, *sequence, selection).item(), 1.6, 1e-15);
  EXPECT_NEAR(batch.loss(tape, *whole, selection).item(), 1.0, 1e-15);
}

TEST_F(SequenceAuxLoss, OfSequencesInSeparateMicroBatchesAddsUp) {
  Tape tape(pool_);
  const auto balancer = make_one("sequence_aux_loss", 4, {{"coefficient", 1.0}});
  SampleFactory factory(pool_, DType::f64);
  const Tensor z = factory.uniform({10, 4}, -2.0, 2.0);
  const RoutedBatch whole(tape, z, layout_of({3, 7}), {.top_k = 2});
  const double expected = whole.loss(tape, *balancer, whole.route(*balancer)).item();

  const auto values = z.span<double>();
  const Tensor first = Tensor::of<double>(pool_, {3, 4}, values.first(12));
  const Tensor second = Tensor::of<double>(pool_, {7, 4}, values.subspan(12));
  double total = 0.0;
  for (const Tensor& part : {first, second}) {
    const RoutedBatch batch(tape, part, layout_of({part.dim(0)}),
                            {.top_k = 2, .valid_tokens = 10, .global_sequences = 2});
    total += batch.loss(tape, *balancer, batch.route(*balancer)).item();
  }
  EXPECT_NEAR(total, expected, 1e-15);
}

TEST_F(SequenceAuxLoss, SeesTheUnbiasedChoiceWhenAsked) {
  Tape tape(pool_);
  const RoutedBatch batch(tape, opposite_halves(), layout_of({1, 1}), {.top_k = 2});
  const auto executed = make_one("sequence_aux_loss", 4, {{"coefficient", 1.0}});
  const auto unbiased =
      make_one("sequence_aux_loss", 4, {{"coefficient", 1.0}, {"selection", "unbiased"}});
  Selection moved = batch.route(*executed);
  moved.expert = {2, 3, 0, 1};  // the experts that each sequence likes least
  EXPECT_NEAR(batch.loss(tape, *executed, moved).item(), 0.4, 1e-15);
  EXPECT_NEAR(batch.loss(tape, *unbiased, moved).item(), 1.6, 1e-15);
}

}  // namespace
}  // namespace sluice
