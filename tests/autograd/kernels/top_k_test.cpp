#include "autograd/kernels/top_k.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/top_k.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;

template <class T>
class TopKKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(TopKKernel, FloatTypes);

template <class T>
void expect_equals_reference(int64_t rows, int64_t E, int64_t k, const Array<T>& scores) {
  Array<T> values(rows * k);
  Array<int32_t> indices(rows * k);
  Array<T> expected_values(rows * k);
  Array<int32_t> expected_indices(rows * k);
  top_k<T>(rows, {E, k, scores.data(), values.data(), indices.data()});
  reference::top_k<T>(rows, {E, k, scores.data(), expected_values.data(), expected_indices.data()});
  EXPECT_TRUE(indices.same_bits(expected_indices)) << E << " choose " << k;
  EXPECT_TRUE(values.same_bits(expected_values)) << E << " choose " << k;
  EXPECT_TRUE(indices.guards_intact() && values.guards_intact());
}

TYPED_TEST(TopKKernel, EqualsTheReferenceUpToAllOfAThousand) {
  using T = TypeParam;
  for (const int64_t E : {1, 2, 7, 16, 33, 128, 1024}) {
    for (const int64_t k : {1, 2, 8, 16, 17, 100, 1024}) {
      if (k > E) continue;
      for (const int64_t rows : {0, 1, 20}) {
        expect_equals_reference<T>(rows, E, k, Array<T>::uniform(rows * E, 1));
      }
    }
  }
}

TYPED_TEST(TopKKernel, EqualsTheReferenceWithManyTiesAndNaNs) {
  using T = TypeParam;
  constexpr int64_t kExperts = 50;
  auto scores = Array<T>::uniform(20 * kExperts, 1, 0.0, 4.0);
  for (int64_t i = 0; i < scores.size(); ++i) {
    scores[i] = std::floor(scores[i]);
    if (scores[i] == T(3)) scores[i] = std::numeric_limits<T>::quiet_NaN();
  }
  for (const int64_t k : {1, 5, 16, 40, 50}) {
    expect_equals_reference<T>(20, kExperts, k, scores);
  }
}

TYPED_TEST(TopKKernel, TiesGoToTheLowerIndexAndNaNComesLast) {
  using T = TypeParam;
  constexpr T kNaN = std::numeric_limits<T>::quiet_NaN();
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const auto scores = Array<T>::of({kNaN, T(1), -kInfinity, T(1), T(0)});
  Array<int32_t> indices(5);
  top_k<T>(1, {5, 5, scores.data(), nullptr, indices.data()});
  const int32_t expected[] = {1, 3, 4, 2, 0};
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(indices[i], expected[i]);
}

TYPED_TEST(TopKKernel, ChoosesTheWorkedExperts) {
  using T = TypeParam;
  const auto z = Array<T>::of({T(2), T(1), T(0), T(-1), T(1), T(2), T(0.5), T(0), T(3), T(0), T(1),
                               T(-1), T(0.5), T(0), T(2), T(1)});
  Array<int32_t> indices(8);
  top_k<T>(4, {4, 2, z.data(), nullptr, indices.data()});
  const int32_t expected[] = {0, 1, 1, 0, 0, 2, 2, 3};
  for (int64_t i = 0; i < 8; ++i) EXPECT_EQ(indices[i], expected[i]);
}

TYPED_TEST(TopKKernel, GathersColumnsAndTakesTheirGradientsBack) {
  using T = TypeParam;
  const auto x = Array<T>::uniform(6, 1);
  const auto index = Array<int32_t>::of({2, 2, -1, 0});
  Array<T> y(4);
  gather_columns(2, 3, 2, index.data(), x.data(), y.data());
  EXPECT_EQ(y[0], x[2]);
  EXPECT_EQ(y[1], x[2]);
  EXPECT_EQ(y[2], T(0));
  EXPECT_EQ(y[3], x[3]);
  const auto grad_y = Array<T>::of({T(1), T(2), T(4), T(8)});
  for (const bool accumulate : {false, true}) {
    Array<T> grad_x(6, T(1));
    Array<T> expected(6, T(1));
    gather_columns_backward<T>(2, {3, 2, index.data(), grad_y.data(), {grad_x.data(), accumulate}});
    reference::gather_columns_backward<T>(
        2, {3, 2, index.data(), grad_y.data(), {expected.data(), accumulate}});
    EXPECT_TRUE(grad_x.same_bits(expected));
    EXPECT_EQ(grad_x[2], accumulate ? T(4) : T(3));
  }
}

}  // namespace
}  // namespace sluice::kernels
