// What a user reads when operands do not fit: the op, both shapes or values, what is allowed.

#include <gtest/gtest.h>

#include "autograd/ops/dispatch_combine.h"
#include "autograd/ops/dropout.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/embedding.h"
#include "autograd/ops/norm.h"
#include "autograd/ops/reshape.h"
#include "autograd/ops/rope.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "tests/support/error_of.h"

namespace sluice {
namespace {

using testing::error_of;

class OpMessages : public ::testing::Test {
 protected:
  Tensor f32(const Shape& shape) { return Tensor::zeros(pool_, shape, DType::f32); }
  Tensor i32(const Shape& shape, const std::vector<int32_t>& numbers) {
    return Tensor::of<int32_t>(pool_, shape, numbers);
  }
  Pool pool_;
  Tape tape_{pool_};
};

TEST_F(OpMessages, NameBothShapes) {
  EXPECT_EQ(error_of<Error>([&] {
              (void)add(tape_, f32({2, 3}), f32({3, 2}));
            }),
            "add: a is [2, 3] but b is [3, 2]; shapes differ");
  EXPECT_EQ(error_of<Error>([&] {
              (void)add_bias(tape_, f32({2, 3}), f32({2}));
            }),
            "add_bias: bias is [2], expected [3]");
  EXPECT_EQ(error_of<Error>([&] {
              (void)rms_norm(tape_, f32({2, 8}), f32({4}), 1e-5);
            }),
            "rms_norm: weight is [4], expected [8]");
  EXPECT_EQ(error_of<Error>([&] {
              (void)softmax(tape_, f32({2, 0}));
            }),
            "softmax: x is [2, 0], expected a last dimension of at least 1");
  EXPECT_EQ(error_of<Error>([&] {
              (void)top_k(tape_, f32({2, 8}), 9);
            }),
            "top_k: k is 9 but x is [2, 8]; allowed 1 to 8");
  EXPECT_EQ(error_of<Error>([&] {
              (void)slice_columns(tape_, f32({2, 8}), 4, 9);
            }),
            "slice_columns: begin 4 and end 9 of x [2, 8], allowed 0 <= begin <= end <= 8");
}

TEST_F(OpMessages, NameTheDtypes) {
  const Tensor f64 = Tensor::zeros(pool_, {2}, DType::f64);
  EXPECT_EQ(error_of<Error>([&] { (void)mul(tape_, f32({2}), f64); }),
            "mul: a is f32 but b is f64");
  EXPECT_EQ(error_of<Error>([&] { (void)exp(tape_, i32({1}, {3})); }),
            "exp: x is i32, expected f32 or f64");
  EXPECT_EQ(error_of<Error>([&] {
              (void)embedding(tape_, f32({4, 2}), f32({1}));
            }),
            "embedding: ids is f32, expected i32");
}

TEST_F(OpMessages, NameTheValueOutOfRange) {
  EXPECT_EQ(error_of<Error>([&] {
              (void)embedding(tape_, f32({4, 2}), i32({2}, {0, 4}));
            }),
            "embedding: token 1 has id 4, allowed 0 to 3 (rows of weight)");
  const RopeTable table = rope_table(pool_, DType::f32, {.rotary_dim = 4}, 16);
  EXPECT_EQ(error_of<Error>([&] {
              (void)rope(tape_, f32({1, 2, 4}), i32({1}, {16}), table, RopeLayout::half_split);
            }),
            "rope: token 0 is at position 16, allowed 0 to 15 (the table's length)");
  EXPECT_EQ(error_of<Error>([&] {
              (void)make_dispatch_plan(pool_, std::vector<int32_t>{0, 1, 5, 0}, 2, 2, 4);
            }),
            "dispatch: token 1 slot 0 has expert 5, allowed -1 to 3");
  const std::vector<int64_t> offsets{0, 2};
  const std::vector<uint64_t> samples{0};
  EXPECT_EQ(error_of<Error>([&] {
              (void)dropout(tape_, f32({2, 3}), 1.0, {RandomKey{}, offsets, samples});
            }),
            "dropout: probability is 1, allowed 0 to below 1");
}

}  // namespace
}  // namespace sluice
