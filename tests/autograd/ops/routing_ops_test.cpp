// The ops of a router and of dispatch put together, against worked numbers and against the dense
// mixture.

#include <gtest/gtest.h>

#include "autograd/ops/dispatch_combine.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"

namespace sluice {
namespace {

// Four tokens, four experts; the two best are {0, 1}, {1, 0}, {0, 2}, {2, 3}.
const std::vector<double> kLogits{2, 1, 0, -1, 1, 2, 0.5, 0, 3, 0, 1, -1, 0.5, 0, 2, 1};

class RoutingOps : public testing::Test {
 protected:
  Tensor f64(const Shape& shape, const std::vector<double>& numbers) {
    return Tensor::of<double>(pool_, shape, numbers);
  }
  /// Gradient at the logits of <upstream, weights>, where `weigh` makes combine weights [4, 2] from
  /// logits [4, 4].
  template <class Weigh>
  Tensor logit_gradient(Weigh&& weigh, const Tensor& upstream) {
    Tape tape(pool_);
    const Tensor z = tape.input(f64({4, 4}, kLogits));
    tape.backward(sum(tape, mul(tape, weigh(tape, z), upstream)));
    return tape.gradient(z);
  }
  static Tensor softmax_then_top_k(Tape& tape, const Tensor& z) {
    return top_k(tape, softmax(tape, z), 2).values;
  }
  static Tensor renormalised(Tape& tape, const Tensor& z) {
    return normalise_rows(tape, softmax_then_top_k(tape, z), 0.0);
  }
  static Tensor top_k_then_softmax(Tape& tape, const Tensor& z) {
    return softmax(tape, top_k(tape, z, 2).values);
  }
  Pool pool_;
  Tensor upstream_ = f64({4, 2}, {0.3, -0.7, 1.1, 0.2, -0.4, 0.9, 0.5, 0.6});
};

void expect_near(const Tensor& actual, const std::vector<double>& expected, double tolerance) {
  ASSERT_EQ(actual.numel(), static_cast<int64_t>(expected.size()));
  for (size_t i = 0; i < expected.size(); ++i) {
    EXPECT_NEAR(actual.data<double>()[i], expected[i], tolerance) << i;
  }
}

TEST_F(RoutingOps, GiveTheWorkedWeightsOfAllThreeModes) {
  Tape tape(pool_);
  const Tensor z = f64({4, 4}, kLogits);
  const std::vector<double> post{0.731059, 0.268941, 0.731059, 0.268941,
                                 0.880797, 0.119203, 0.731059, 0.268941};
  expect_near(softmax_then_top_k(tape, z),
              {0.643914, 0.236883, 0.579259, 0.213097, 0.830953, 0.112457, 0.579259, 0.213097},
              1e-6);
  expect_near(renormalised(tape, z), post, 1e-6);
  expect_near(top_k_then_softmax(tape, z), post, 1e-6);
}

TEST_F(RoutingOps, RenormalisedSoftmaxHasTheGradientOfSoftmaxAfterTopK) {
  const Tensor renorm = logit_gradient(renormalised, upstream_);
  const Tensor post = logit_gradient(top_k_then_softmax, upstream_);
  for (int64_t i = 0; i < 16; ++i) {
    EXPECT_NEAR(renorm.data<double>()[i], post.data<double>()[i], 1e-15) << i;
  }
}

TEST_F(RoutingOps, SoftmaxThenTopKSpreadsItsGradientOverAllExperts) {
  // dL/dz_j = p_j (1[j in S] g_j - sum over S of p g)
  const Tensor gradient = logit_gradient(softmax_then_top_k, upstream_);
  Tape tape(pool_);
  const Tensor p = softmax(tape, f64({4, 4}, kLogits));
  const double pulled = p.data<double>()[0] * 0.3 + p.data<double>()[1] * -0.7;
  const double g[] = {0.3, -0.7, 0.0, 0.0};
  double total = 0.0;
  for (int64_t j = 0; j < 4; ++j) {
    EXPECT_NEAR(gradient.data<double>()[j], p.data<double>()[j] * (g[j] - pulled), 1e-15);
    total += gradient.data<double>()[j];
  }
  EXPECT_NEAR(total, 0.0, 1e-15);
}

TEST_F(RoutingOps, GiveTheWorkedSigmoidWeights) {
  Tape tape(pool_);
  const Tensor s = sigmoid(tape, f64({4, 4}, kLogits));
  const Tensor w = normalise_rows(tape, top_k(tape, s, 2).values, 1e-20);
  EXPECT_NEAR(w.data<double>()[0], 0.546449, 1e-6);
  EXPECT_NEAR(w.data<double>()[1], 0.453551, 1e-6);
  EXPECT_NEAR(w.data<double>()[4], 0.565785, 1e-6);
  EXPECT_NEAR(w.data<double>()[5], 0.434215, 1e-6);
  EXPECT_NEAR(scale(tape, w, 2.5).data<double>()[0], 1.366123, 1e-6);
}

TEST_F(RoutingOps, GatherTakesWeightsFromOtherScoresThanTheChoice) {
  // A selection bias moves the choice and never enters the weights.
  Tape tape(pool_);
  const Tensor s = sigmoid(tape, f64({1, 3}, {2, 1, 0}));
  const Tensor biased = add_bias(tape, s, f64({3}, {0, 0, 10}));
  const Tensor chosen = top_k(tape, biased, 2).indices;
  const Tensor weights = gather_last(tape, s, chosen);
  EXPECT_EQ(chosen.data<int32_t>()[0], 2);
  EXPECT_EQ(chosen.data<int32_t>()[1], 0);
  EXPECT_EQ(weights.data<double>()[0], 0.5);
  EXPECT_EQ(weights.data<double>()[1], s.data<double>()[0]);
}

TEST_F(RoutingOps, DispatchScaleCombineEqualsTheDenseMixture) {
  // Expert e multiplies by e + 1: y = x sum_s w_s (e_s + 1).
  Tape tape(pool_);
  const std::vector<int32_t> experts{0, 1, 1, 0, 0, 2, 2, 3};
  const DispatchPlan plan = make_dispatch_plan(pool_, experts, 4, 2, 4);
  const Tensor x = f64({4, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  const Tensor weights = f64({4, 2}, {0.7, 0.3, 0.6, 0.4, 0.9, 0.1, 0.5, 0.5});
  std::vector<double> factors;
  for (int32_t e = 0; e < 4; ++e) {
    const int32_t* offsets = plan.offsets.data<int32_t>();
    for (int32_t row = offsets[e]; row < offsets[e + 1]; ++row) factors.push_back(e + 1.0);
  }
  const Tensor rows = mul_rows(tape, dispatch(tape, x, plan), f64({8}, factors));
  const Tensor y = combine(tape, rows, weights, plan);
  expect_near(y, {1.3, 2.6, 4.8, 6.4, 6.0, 7.2, 24.5, 28.0}, 1e-14);
}

TEST_F(RoutingOps, AnExpertWithoutTokensHasAnEmptySegment) {
  const std::vector<int32_t> experts{2, 0, 2, -1};
  const DispatchPlan plan = make_dispatch_plan(pool_, experts, 2, 2, 4);
  const std::vector<int32_t> expected{0, 1, 1, 3, 3};
  for (size_t e = 0; e < expected.size(); ++e) {
    EXPECT_EQ(plan.offsets.data<int32_t>()[e], expected[e]);
  }
  EXPECT_EQ(plan.token_of_row.numel(), 3);
  EXPECT_EQ(plan.row_of_slot.data<int32_t>()[3], -1);
}

TEST_F(RoutingOps, DroppedAssignmentsGetNoGradient) {
  Tape tape(pool_);
  const std::vector<int32_t> experts{0, -1};
  const DispatchPlan plan = make_dispatch_plan(pool_, experts, 1, 2, 1);
  const Tensor x = tape.input(f64({1, 1}, {3}));
  const Tensor weights = tape.input(f64({1, 2}, {0.5, 0.5}));
  tape.backward(sum(tape, combine(tape, dispatch(tape, x, plan), weights, plan)));
  EXPECT_EQ(tape.gradient(x).data<double>()[0], 0.5);
  EXPECT_EQ(tape.gradient(weights).data<double>()[0], 3.0);
  EXPECT_EQ(tape.gradient(weights).data<double>()[1], 0.0);
}

TEST_F(RoutingOps, StopGradientPassesTheValueAndNoGradient) {
  Tape tape(pool_);
  const Tensor x = tape.input(f64({2}, {3, 4}));
  const Tensor y = mul(tape, x, stop_gradient(tape, x));
  expect_near(y, {9, 16}, 0.0);
  tape.backward(sum(tape, y));
  expect_near(tape.gradient(x), {3, 4}, 0.0);
}

}  // namespace
}  // namespace sluice
