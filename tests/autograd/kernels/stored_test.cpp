// Matrices in bf16: every kernel that reads one gives the bits it gives for the widened matrix.

#include "autograd/kernels/stored.h"

#include <gtest/gtest.h>

#include <array>
#include <vector>

#include "autograd/kernels/embedding.h"
#include "autograd/kernels/gemm.h"
#include "autograd/kernels/grouped_gemm.h"
#include "autograd/kernels/linear_cross_entropy.h"
#include "autograd/kernels/swiglu_experts.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;

/// A matrix in bf16, and the same numbers in f32.
struct Matrix {
  Matrix(int64_t size, uint64_t seed) : wide(Array<float>::uniform(size, seed)) {
    for (int64_t i = 0; i < size; ++i) {
      narrow.push_back(rounded_to_bf16(wide[i]));
      wide[i] = widened(narrow.back());
    }
  }
  [[nodiscard]] Stored<float> stored() const { return Stored<float>::of(narrow.data()); }

  Array<float> wide;
  std::vector<BFloat16> narrow;
};

TEST(Stored, ReadsAndMovesInElements) {
  const Matrix m(40, 1);
  const Stored<float> moved = m.stored() + 7;
  EXPECT_EQ(moved[3], m.wide[10]);
  EXPECT_EQ((Stored<float>(m.wide.data()) + 7)[3], m.wide[10]);
  EXPECT_EQ(m.stored().plain(), nullptr);
}

TEST(Stored, MultipliesInEveryFormOfAProduct) {
  // Few rows, where B is packed in passing, and many; sizes around the tile and the blocks of K.
  for (const GemmSize size : {GemmSize{1, 100, 530}, {3, 33, 7}, {150, 65, 40}, {300, 700, 600}}) {
    const auto [M, N, K] = size;
    const Matrix a(M * K, 1);
    const Matrix b(N * K, 2);
    for (const bool a_transposed : {false, true}) {
      for (const bool b_transposed : {false, true}) {
        const int64_t a_stride = a_transposed ? M : K;
        const int64_t b_stride = b_transposed ? K : N;
        Array<float> wide(M * N);
        Array<float> narrow(M * N);
        gemm<float>(size, {a.wide.data(), a_stride, a_transposed},
                    {b.wide.data(), b_stride, b_transposed}, {wide.data(), N});
        gemm<float>(size, {a.stored(), a_stride, a_transposed},
                    {b.stored(), b_stride, b_transposed}, {narrow.data(), N});
        EXPECT_TRUE(narrow.same_bits(wide)) << M << " x " << N << " x " << K;
      }
    }
  }
}

TEST(Stored, IsGatheredByRows) {
  const std::array<int32_t, 5> index{4, 0, 0, 2, 3};
  const Matrix table(5 * 70, 1);
  const Array<float> b = Array<float>::uniform(70 * 9, 2);
  Array<float> wide(5 * 9);
  Array<float> narrow(5 * 9);
  gemm<float>({5, 9, 70}, {table.wide.data(), 70, false, index.data()}, {b.data(), 9},
              {wide.data(), 9});
  gemm<float>({5, 9, 70}, {table.stored(), 70, false, index.data()}, {b.data(), 9},
              {narrow.data(), 9});
  EXPECT_TRUE(narrow.same_bits(wide));
}

TEST(Stored, IsATableOfEmbeddings) {
  constexpr int64_t kD = 37;
  const Matrix table(6 * kD, 1);
  const std::array<int32_t, 4> id{5, 0, 3, 3};
  Array<float> wide(4 * kD);
  Array<float> narrow(4 * kD);
  embedding<float>(4, kD, id.data(), table.wide.data(), wide.data());
  embedding<float>(4, kD, id.data(), table.stored(), narrow.data());
  EXPECT_TRUE(narrow.same_bits(wide));
  EXPECT_TRUE(narrow.guards_intact());
}

TEST(Stored, HoldsExperts) {
  constexpr int64_t kE = 3, kD = 33, kF = 600;
  const std::array<int32_t, kE + 1> offsets{0, 21, 21, 60};
  const Matrix gate(kE * kF * kD, 1);
  const Matrix up(kE * kF * kD, 2);
  const Matrix down(kE * kD * kF, 3);
  const Array<float> x = Array<float>::uniform(60 * kD, 4);
  Array<float> wide(60 * kD);
  Array<float> narrow(60 * kD);
  const ExpertsShape shape{kE, kD, kF, offsets.data()};
  swiglu_experts<float>(shape, {gate.wide.data(), up.wide.data(), down.wide.data()}, x.data(), {},
                        wide.data());
  swiglu_experts<float>(shape, {gate.stored(), up.stored(), down.stored()}, x.data(), {},
                        narrow.data());
  EXPECT_TRUE(narrow.same_bits(wide));

  const Groups groups{kE, offsets.data(), kD, kF};
  Array<float> wide_product(60 * kF);
  Array<float> narrow_product(60 * kF);
  grouped_gemm<float>(groups, x.data(), gate.wide.data(), wide_product.data());
  grouped_gemm<float>(groups, x.data(), gate.stored(), narrow_product.data());
  EXPECT_TRUE(narrow_product.same_bits(wide_product));
}

TEST(Stored, IsTheHeadOfALoss) {
  constexpr int64_t kN = 7, kD = 20, kV = 45;
  const Matrix weight(kV * kD, 1);
  const Array<float> hidden = Array<float>::uniform(kN * kD, 2);
  const std::array<int32_t, kN> targets{3, -100, 44, 0, 7, 7, 1};
  const auto loss = [&](Stored<float> head) {
    Array<float> logits(linear_cross_entropy_chunk(kV) * kV);
    Array<float> token_loss(kN);
    (void)linear_cross_entropy<float>({.N = kN,
                                       .D = kD,
                                       .V = kV,
                                       .hidden = hidden.data(),
                                       .weight = head,
                                       .targets = targets.data(),
                                       .logits = logits.data(),
                                       .token_loss = token_loss.data()});
    return token_loss;
  };
  EXPECT_TRUE(loss(weight.stored()).same_bits(loss(weight.wide.data())));
}

}  // namespace
}  // namespace sluice::kernels
