#include "autograd/kernels/embedding_bag.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/embedding_bag.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_same_bits_on_any_threads;

Array<int32_t> random_ids(int64_t count, int64_t V) {
  Array<int32_t> ids(count);
  for (int64_t n = 0; n < count; ++n) {
    ids[n] = static_cast<int32_t>(
        uniform_below({.seed = 5}, 0, static_cast<uint64_t>(n), static_cast<uint64_t>(V)));
  }
  return ids;
}

template <class T>
class EmbeddingBag : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(EmbeddingBag, FloatTypes);

TYPED_TEST(EmbeddingBag, EqualsTheReference) {
  using T = TypeParam;
  for (const int64_t N : {0, 1, 40}) {
    for (const int64_t V : {1, 70, 300}) {
      for (const int64_t D : {1, 7, 33}) {
        const int64_t k = 5;
        const auto ids = random_ids(N * k, V);
        const auto table = Array<T>::uniform(V * D, 1);
        const auto weight = Array<T>::uniform(N * k, 2);
        const auto x = Array<T>::uniform(N * D, 3);
        for (const bool accumulate : {false, true}) {
          Array<T> y(N * D, T(0.5));
          Array<T> expected_y(N * D, T(0.5));
          const BagSum<T> sum{k, ids.data(), weight.data(), table.data()};
          bag_sum<T>(N, D, sum, {y.data(), accumulate});
          reference::bag_sum<T>(N, D, sum, {expected_y.data(), accumulate});
          Array<T> z(N * k, T(0.5));
          Array<T> expected_z(N * k, T(0.5));
          const BagDots<T> dots{k, ids.data(), x.data(), table.data()};
          bag_dots<T>(N, D, dots, {z.data(), accumulate});
          reference::bag_dots<T>(N, D, dots, {expected_z.data(), accumulate});
          Array<T> grad(V * D, T(0.5));
          Array<T> expected_grad(V * D, T(0.5));
          bag_table_gradient<T>(
              N, D, {V, k, ids.data(), weight.data(), x.data(), {grad.data(), accumulate}});
          reference::bag_table_gradient<T>(
              N, D,
              {V, k, ids.data(), weight.data(), x.data(), {expected_grad.data(), accumulate}});
          const double tolerance = sizeof(T) == 4 ? 1e-5 : 1e-13;
          for (int64_t i = 0; i < N * D; ++i) ASSERT_NEAR(y[i], expected_y[i], tolerance);
          for (int64_t i = 0; i < N * k; ++i) ASSERT_NEAR(z[i], expected_z[i], tolerance);
          for (int64_t i = 0; i < V * D; ++i) ASSERT_NEAR(grad[i], expected_grad[i], tolerance);
          EXPECT_TRUE(y.guards_intact());
          EXPECT_TRUE(z.guards_intact());
          EXPECT_TRUE(grad.guards_intact());
        }
      }
    }
  }
}

TYPED_TEST(EmbeddingBag, GivesTheSameBitsOnAnyNumberOfThreads) {
  using T = TypeParam;
  const int64_t N = 300;
  const int64_t V = 500;
  const int64_t D = 40;
  const int64_t k = 8;
  const auto ids = random_ids(N * k, V);
  const auto table = Array<T>::uniform(V * D, 1);
  const auto weight = Array<T>::uniform(N * k, 2);
  const auto x = Array<T>::uniform(N * D, 3);
  expect_same_bits_on_any_threads([&] {
    Array<T> all(N * D + N * k + V * D);
    bag_sum<T>(N, D, {k, ids.data(), weight.data(), table.data()}, {all.data(), false});
    bag_dots<T>(N, D, {k, ids.data(), x.data(), table.data()}, {all.data() + N * D, false});
    bag_table_gradient<T>(
        N, D, {V, k, ids.data(), weight.data(), x.data(), {all.data() + N * D + N * k, false}});
    return all;
  });
}

}  // namespace
}  // namespace sluice::kernels
