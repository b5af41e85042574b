// Ops that read weights in bf16, and what the others say.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>

#include "autograd/core/gradcheck.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/linear_cross_entropy.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/swiglu_experts.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

class Bf16Weights : public ::testing::Test {
 protected:
  /// A weight in bf16 and the same numbers in f32.
  struct Weight {
    Tensor narrow;
    Tensor wide;
  };
  Weight weight(const Shape& shape) {
    const Tensor narrow = make_.uniform(shape).rounded_to_bf16(pool_);
    Tensor wide = Tensor::empty(pool_, shape, DType::f32);
    for (int64_t i = 0; i < wide.numel(); ++i) {
      wide.data<float>()[i] = widened(narrow.data<BFloat16>()[i]);
    }
    return {narrow, wide};
  }
  static void expect_same_bits(const Tensor& a, const Tensor& b) {
    ASSERT_EQ(a.dtype(), DType::f32);
    ASSERT_EQ(a.shape(), b.shape());
    EXPECT_EQ(std::memcmp(a.raw().data(), b.raw().data(), a.raw().size()), 0);
  }

  Pool pool_;
  SampleFactory make_{pool_, DType::f32};
  Tape tape_{pool_};
};

TEST_F(Bf16Weights, TakeHalfTheMemory) {
  const Tensor x = make_.uniform({64, 32});
  EXPECT_EQ(x.rounded_to_bf16(pool_).bytes() * 2, x.bytes());
}

TEST_F(Bf16Weights, GiveTheBitsOfTheWidenedOnes) {
  const Tensor x = make_.uniform({9, 20});
  const Weight w = weight({13, 20});
  const Weight v = weight({5, 20});
  expect_same_bits(linear(tape_, x, w.narrow), linear(tape_, x, w.wide));
  expect_same_bits(matmul(tape_, x, w.narrow, MatmulForm::nt),
                   matmul(tape_, x, w.wide, MatmulForm::nt));
  const auto joint =
      joint_linear<2>(tape_, x, {LinearWeights{w.narrow, {}}, LinearWeights{v.narrow, {}}});
  expect_same_bits(joint[0], linear(tape_, x, w.wide));
  expect_same_bits(joint[1], linear(tape_, x, v.wide));
  const Tensor ids = make_.integers({3}, {12, 0, 7});
  expect_same_bits(embedding(tape_, w.narrow, ids), embedding(tape_, w.wide, ids));
  const Tensor targets = make_.integers({9}, {0, 1, 2, 3, 12, -100, 5, 5, 4});
  expect_same_bits(linear_cross_entropy(tape_, x, w.narrow, targets, {}).token_loss,
                   linear_cross_entropy(tape_, x, w.wide, targets, {}).token_loss);
}

TEST_F(Bf16Weights, GiveTheBitsOfTheWidenedExperts) {
  const Tensor x = make_.uniform({9, 20});
  const Tensor offsets = make_.integers({3}, {0, 4, 9});
  const Weight gate = weight({2, 6, 20});
  const Weight up = weight({2, 6, 20});
  const Weight down = weight({2, 20, 6});
  expect_same_bits(swiglu_experts(tape_, x, {gate.narrow, up.narrow, down.narrow}, offsets),
                   swiglu_experts(tape_, x, {gate.wide, up.wide, down.wide}, offsets));
  expect_same_bits(grouped_matmul(tape_, x, gate.narrow, offsets),
                   grouped_matmul(tape_, x, gate.wide, offsets));
}

TEST_F(Bf16Weights, AreRefusedWhereAGradientIsWanted) {
  const Tensor x = make_.uniform({9, 20});
  const Weight w = weight({13, 20});
  const auto error = [](auto&& body) { return testing::error_of<DTypeError>(body); };
  const std::string expected = "weight is bf16, which is for inference only";
  Tape tape(pool_);
  const Tensor moving_x = tape.input(x);
  EXPECT_THAT(error([&] { (void)linear(tape, moving_x, w.narrow); }), HasSubstr(expected));
  const Tensor moving_w = tape.input(w.narrow);
  EXPECT_THAT(error([&] { (void)linear(tape, x, moving_w); }), HasSubstr(expected));
  EXPECT_THAT(error([&] { (void)embedding(tape, moving_w, make_.integers({1}, {0})); }),
              HasSubstr("embedding: " + expected));
}

TEST_F(Bf16Weights, AreRefusedByWhatComputesWithThem) {
  const Weight w = weight({20});
  const auto error = [](auto&& body) { return testing::error_of<DTypeError>(body); };
  EXPECT_THAT(error([&] {
                (void)rms_norm(tape_, make_.uniform({9, 20}), w.narrow, 1e-5);
              }),
              HasSubstr("bf16"));
  EXPECT_THAT(error([&] { (void)add(tape_, w.narrow, w.narrow); }),
              HasSubstr("is bf16, expected f32 or f64"));
  const Weight m = weight({20, 20});
  EXPECT_THAT(error([&] { (void)linear(tape_, m.narrow, m.wide); }),
              HasSubstr("linear: x is bf16, expected f32 or f64"));
}

}  // namespace
}  // namespace sluice
