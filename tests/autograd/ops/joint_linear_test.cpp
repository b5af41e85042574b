// One product by several weights beside one product each.

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <vector>

#include "autograd/core/op_info.h"
#include "autograd/ops/matmul.h"

namespace sluice {
namespace {

class JointLinear : public ::testing::Test {
 protected:
  static constexpr int64_t kIn = 24;
  static constexpr std::array<int64_t, 3> kOut{17, 8, 33};

  JointLinear() {
    for (const int64_t out : kOut) {
      weights_.push_back(make_.uniform({out, kIn}));
      grads_.push_back(make_.uniform({kRows, out}));
    }
    bias_ = make_.uniform({kOut[1]});
  }
  /// Outputs, then the gradients of x, the weights and the bias.
  std::vector<Tensor> run(bool joint) {
    Tape tape(pool_);
    const Tensor x = tape.input(x_);
    std::vector<LinearWeights> linears;
    for (const Tensor& weight : weights_) linears.push_back({tape.input(weight), {}});
    linears[1].bias = tape.input(bias_);
    std::vector<Tensor> outputs(linears.size());
    if (joint) {
      joint_linear(tape, x, linears, outputs);
    } else {
      for (size_t j = 0; j < linears.size(); ++j) {
        outputs[j] = linear(tape, x, linears[j].weight, linears[j].bias);
      }
    }
    tape.backward(outputs, grads_);
    std::vector<Tensor> all = outputs;
    all.push_back(tape.gradient(x));
    for (const LinearWeights& each : linears) all.push_back(tape.gradient(each.weight));
    all.push_back(tape.gradient(linears[1].bias));
    return all;
  }

  static constexpr int64_t kRows = 160;  // more than a product packs at once
  Pool pool_;
  SampleFactory make_{pool_, DType::f32};
  Tensor x_ = make_.uniform({kRows, kIn});
  std::vector<Tensor> weights_, grads_;
  Tensor bias_;
};

TEST_F(JointLinear, HasTheBitsOfOneLinearEachForwardAndBackward) {
  const auto joint = run(true);
  const auto alone = run(false);
  for (size_t i = 0; i < joint.size(); ++i) {
    ASSERT_EQ(joint[i].shape(), alone[i].shape());
    EXPECT_EQ(std::memcmp(joint[i].raw().data(), alone[i].raw().data(), joint[i].raw().size()), 0)
        << i;
  }
}

TEST_F(JointLinear, TakesAConstantBesideAWeightThatMoves) {
  Tape tape(pool_);
  const Tensor first = tape.input(weights_[0]);
  const auto y =
      joint_linear<2>(tape, x_, {LinearWeights{first, {}}, LinearWeights{weights_[1], {}}});
  EXPECT_TRUE(tape.requires_grad(y[1]));
  tape.backward(y, std::span(grads_).first(2));
  EXPECT_TRUE(tape.gradient(first).defined());
}

}  // namespace
}  // namespace sluice
