#include "autograd/kernels/permute_tokens.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/permute_tokens.h"
#include "autograd/support/error.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;

/// An order and what owns it.
struct Order {
  Order(const Array<int32_t>& chosen, int64_t N, int64_t k, int64_t E)
      : assignments{N, k, E, chosen.data()}, offsets(E + 1), row_of_slot(N * k) {
    count_by_expert(assignments, offsets.data());
    token_of_row = Array<int32_t>(offsets[E]);
    slot_of_row = Array<int32_t>(offsets[E]);
    order_by_expert(assignments, offsets.data(),
                    {token_of_row.data(), slot_of_row.data(), row_of_slot.data()});
  }
  [[nodiscard]] int64_t rows() const { return token_of_row.size(); }

  Assignments assignments;
  Array<int32_t> offsets;
  Array<int32_t> token_of_row{0};
  Array<int32_t> slot_of_row{0};
  Array<int32_t> row_of_slot;
};

/// Experts 0 .. E-1, and -1 for about one assignment in E + 1.
Array<int32_t> random_experts(int64_t N, int64_t k, int64_t E) {
  Array<int32_t> experts(N * k);
  for (int64_t slot = 0; slot < N * k; ++slot) {
    experts[slot] = static_cast<int32_t>(uniform_below({.seed = 9}, 0, static_cast<uint64_t>(slot),
                                                       static_cast<uint64_t>(E + 1))) -
                    1;
  }
  return experts;
}

void expect_equals_reference(const Array<int32_t>& experts, int64_t N, int64_t k, int64_t E) {
  const Order order(experts, N, k, E);
  Array<int32_t> offsets(E + 1);
  Array<int32_t> token_of_row(order.rows());
  Array<int32_t> slot_of_row(order.rows());
  Array<int32_t> row_of_slot(N * k);
  reference::order_by_expert(order.assignments, offsets.data(),
                             {token_of_row.data(), slot_of_row.data(), row_of_slot.data()});
  EXPECT_TRUE(order.offsets.same_bits(offsets));
  EXPECT_TRUE(order.token_of_row.same_bits(token_of_row));
  EXPECT_TRUE(order.slot_of_row.same_bits(slot_of_row));
  EXPECT_TRUE(order.row_of_slot.same_bits(row_of_slot));
}

TEST(OrderByExpert, EqualsTheReference) {
  for (const int64_t N : {0, 1, 5, 300}) {
    for (const int64_t k : {1, 2, 8}) {
      for (const int64_t E : {1, 3, 64}) {
        expect_equals_reference(random_experts(N, k, E), N, k, E);
      }
    }
  }
}

TEST(OrderByExpert, EqualsTheReferenceWhenOneExpertHasAllOrNothingIsKept) {
  expect_equals_reference(Array<int32_t>(40, 2), 20, 2, 4);
  expect_equals_reference(Array<int32_t>(40, -1), 20, 2, 4);
}

TEST(OrderByExpert, KeepsTheOrderOfTokensWithinAnExpert) {
  // The worked routing: S_0 = {0, 1}, S_1 = {1, 0}, S_2 = {0, 2}, S_3 = {2, 3}; loads 3, 2, 2, 1.
  const auto experts = Array<int32_t>::of({0, 1, 1, 0, 0, 2, 2, 3});
  const Order order(experts, 4, 2, 4);
  const int32_t offsets[] = {0, 3, 5, 7, 8};
  const int32_t tokens[] = {0, 1, 2, 0, 1, 2, 3, 3};
  const int32_t slots[] = {0, 3, 4, 1, 2, 5, 6, 7};
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(order.offsets[i], offsets[i]);
  for (int64_t row = 0; row < 8; ++row) {
    EXPECT_EQ(order.token_of_row[row], tokens[row]);
    EXPECT_EQ(order.slot_of_row[row], slots[row]);
    EXPECT_EQ(order.row_of_slot[slots[row]], row);
  }
}

TEST(OrderByExpert, RefusesAnExpertThatDoesNotExist) {
  Array<int32_t> offsets(4);
  for (const int32_t expert : {3, -2}) {
    EXPECT_THROW(count_by_expert({1, 1, 3, &expert}, offsets.data()), ShapeError);
  }
}

template <class T>
class CombineRowsKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CombineRowsKernel, FloatTypes);

TYPED_TEST(CombineRowsKernel, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const int64_t N : {0, 1, 60}) {
    for (const int64_t k : {1, 2, 8}) {
      for (const int64_t D : {1, 7, 16, 33, 100}) {
        const auto experts = random_experts(N, k, 5);
        const Order order(experts, N, k, 5);
        const int64_t R = order.rows();
        const auto x = Array<T>::uniform(N * D, 1);
        Array<T> rows(R * D);
        Array<T> expected_rows(R * D);
        gather_rows(R, D, order.token_of_row.data(), x.data(), rows.data());
        reference::gather_rows(R, D, order.token_of_row.data(), x.data(), expected_rows.data());
        EXPECT_TRUE(rows.same_bits(expected_rows));

        const auto weight = Array<T>::uniform(N * k, 2);
        const auto grad_y = Array<T>::uniform(N * D, 3);
        const auto rows64 = rows.in_double();
        const auto weight64 = weight.in_double();
        const auto grad_y64 = grad_y.in_double();
        const CombineRows<T> args{k, order.row_of_slot.data(), weight.data(), rows.data()};
        const CombineRows<double> args64{k, order.row_of_slot.data(), weight64.data(),
                                         rows64.data()};
        for (const bool accumulate : {false, true}) {
          Array<T> y(N * D, T(0.5));
          Array<double> y64(N * D, 0.5);
          combine_rows<T>(N, D, args, {y.data(), accumulate});
          reference::combine_rows<double>(N, D, args64, {y64.data(), accumulate});
          expect_close(y, y64, 2.0 * static_cast<double>(k));

          Array<T> grad_rows(R * D, T(0.5));
          Array<T> grad_weight(N * k, T(0.5));
          combine_rows_backward<T>(
              N, D, args,
              {grad_y.data(), {grad_rows.data(), accumulate}, {grad_weight.data(), accumulate}});
          Array<double> grad_rows64(R * D, 0.5);
          Array<double> grad_weight64(N * k, 0.5);
          reference::combine_rows_backward<double>(N, D, R, args64,
                                                   {grad_y64.data(),
                                                    {grad_rows64.data(), accumulate},
                                                    {grad_weight64.data(), accumulate}});
          expect_close(grad_rows, grad_rows64, 2.0);
          expect_close(grad_weight, grad_weight64, static_cast<double>(D) + 2.0);
        }
      }
    }
  }
}

TYPED_TEST(CombineRowsKernel, ATokenWhoseAssignmentsWereAllDroppedGetsZero) {
  using T = TypeParam;
  const auto experts = Array<int32_t>::of({-1, -1, 0, -1});
  const Order order(experts, 2, 2, 1);
  const auto rows = Array<T>::of({T(5)});
  const auto weight = Array<T>(4, T(0.5));
  Array<T> y(2, T(9));
  combine_rows<T>(2, 1, {2, order.row_of_slot.data(), weight.data(), rows.data()},
                  {y.data(), false});
  EXPECT_EQ(y[0], T(0));
  EXPECT_EQ(y[1], T(2.5));
}

TEST(CombineRowsThreads, GiveTheSameBits) {
  const auto experts = random_experts(500, 2, 8);
  const Order order(experts, 500, 2, 8);
  const auto rows = Array<float>::uniform(order.rows() * 70, 1);
  const auto weight = Array<float>::uniform(1000, 2);
  expect_same_bits_on_any_threads([&] {
    Array<float> y(500 * 70);
    combine_rows<float>(500, 70, {2, order.row_of_slot.data(), weight.data(), rows.data()},
                        {y.data(), false});
    return y;
  });
}

}  // namespace
}  // namespace sluice::kernels
