#include "autograd/kernels/embedding.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/embedding.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_same_bits_on_any_threads;

Array<int32_t> random_ids(int64_t N, int64_t V) {
  Array<int32_t> ids(N);
  for (int64_t n = 0; n < N; ++n) {
    ids[n] = static_cast<int32_t>(
        uniform_below({.seed = 5}, 0, static_cast<uint64_t>(n), static_cast<uint64_t>(V)));
  }
  return ids;
}

template <class T>
class Embedding : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Embedding, FloatTypes);

TYPED_TEST(Embedding, EqualsTheReferenceBitForBit) {
  using T = TypeParam;
  for (const int64_t N : {0, 1, 2, 150}) {
    for (const int64_t V : {1, 65, 300}) {
      for (const int64_t D : {1, 7, 16, 33}) {
        const auto ids = random_ids(N, V);
        const auto weight = Array<T>::uniform(V * D, 1);
        const auto grad_y = Array<T>::uniform(N * D, 2);
        Array<T> y(N * D);
        Array<T> expected(N * D);
        embedding(N, D, ids.data(), weight.data(), y.data());
        reference::embedding(N, D, ids.data(), weight.data(), expected.data());
        EXPECT_TRUE(y.same_bits(expected));
        for (const bool accumulate : {false, true}) {
          Array<T> grad(V * D, T(0.5));
          Array<T> expected_grad(V * D, T(0.5));
          embedding_backward<T>(N, D, {V, ids.data(), grad_y.data(), {grad.data(), accumulate}});
          reference::embedding_backward<T>(
              N, D, {V, ids.data(), grad_y.data(), {expected_grad.data(), accumulate}});
          EXPECT_TRUE(grad.same_bits(expected_grad)) << N << " tokens, " << V << " ids";
          EXPECT_TRUE(grad.guards_intact());
        }
      }
    }
  }
}

TEST(EmbeddingBackward, AddsRowsOfOneIdInTokenOrder) {
  // In any other order the one would be lost beside 1e8.
  const auto ids = Array<int32_t>::of({2, 0, 2, 2});
  const auto grad_y = Array<float>::of({1e8F, 5.0F, -1e8F, 1.0F});
  Array<float> grad(4);
  embedding_backward<float>(4, 1, {4, ids.data(), grad_y.data(), {grad.data(), false}});
  EXPECT_EQ(grad[0], 5.0F);
  EXPECT_EQ(grad[1], 0.0F);
  EXPECT_EQ(grad[2], 1.0F);
  EXPECT_EQ(grad[3], 0.0F);
}

TEST(EmbeddingBackward, GivesTheSameBitsOnAnyThreads) {
  constexpr int64_t kTokens = 3000;
  constexpr int64_t kTable = 400;
  const auto ids = random_ids(kTokens, kTable);
  const auto grad_y = Array<float>::uniform(kTokens * 24, 1);
  expect_same_bits_on_any_threads([&] {
    Array<float> grad(kTable * 24);
    embedding_backward<float>(kTokens, 24,
                              {kTable, ids.data(), grad_y.data(), {grad.data(), false}});
    return grad;
  });
}

}  // namespace
}  // namespace sluice::kernels
