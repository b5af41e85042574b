#include "autograd/kernels/grouped_gemm.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/grouped_gemm.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;

// Sums of up to 600 products of numbers below 1 in a fixed chain.
constexpr double kCoefficient = 300.0;

template <class T>
class GroupedGemm : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(GroupedGemm, FloatTypes);

struct Case {
  std::vector<int32_t> offsets;
  int64_t I;
  int64_t O;
};

std::vector<Case> cases() {
  return {{{0, 3}, 5, 7},                      // one expert
          {{0, 0, 4, 4, 4}, 17, 33},           // empty experts around one
          {{0, 0, 0}, 4, 4},                   // no row at all
          {{0, 600, 600, 601}, 16, 40},        // one expert with nearly all
          {{0, 1, 17, 80, 81, 337}, 32, 130},  // all sizes
          {{0, 5, 20}, 270, 390},              // few rows: columns are cut
          {{0, 0, 300, 300}, 100, 200}};       // one expert with all: its rows are cut smaller
}

TYPED_TEST(GroupedGemm, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    const Groups groups{static_cast<int64_t>(c.offsets.size()) - 1, c.offsets.data(), c.I, c.O};
    const int64_t R = c.offsets.back();
    const int64_t W = groups.E * c.O * c.I;
    const auto x = Array<T>::uniform(R * c.I, 1);
    const auto w = Array<T>::uniform(W, 2);
    const auto g = Array<T>::uniform(R * c.O, 3);
    const auto x64 = x.in_double();
    const auto w64 = w.in_double();
    const auto g64 = g.in_double();
    Array<T> y(R * c.O);
    Array<double> y64(R * c.O);
    grouped_gemm(groups, x.data(), w.data(), y.data());
    reference::grouped_gemm(groups, x64.data(), w64.data(), y64.data());
    expect_close(y, y64, kCoefficient);
    for (const bool accumulate : {false, true}) {
      Array<T> grad_x(R * c.I, T(0.5)), grad_w(W, T(0.5));
      Array<double> grad_x64(R * c.I, 0.5), grad_w64(W, 0.5);
      grouped_gemm_grad_x<T>(groups, g.data(), w.data(), {grad_x.data(), accumulate});
      reference::grouped_gemm_grad_x<double>(groups, g64.data(), w64.data(),
                                             {grad_x64.data(), accumulate});
      expect_close(grad_x, grad_x64, kCoefficient);
      grouped_gemm_grad_weight<T>(groups, {g.data()}, {x.data()}, {grad_w.data(), accumulate});
      reference::grouped_gemm_grad_weight<double>(groups, {g64.data()}, {x64.data()},
                                                  {grad_w64.data(), accumulate});
      expect_close(grad_w, grad_w64, kCoefficient);
    }
  }
}

TYPED_TEST(GroupedGemm, GathersRowsAsIfTheyHadBeenCopied) {
  using T = TypeParam;
  constexpr int64_t R = 60, I = 21, O = 35, kTokens = 30;
  const std::vector<int32_t> offsets = {0, 17, 17, R};
  const Groups groups{3, offsets.data(), I, O};
  const auto x = Array<T>::uniform(kTokens * I, 1);
  const auto g = Array<T>::uniform(kTokens * O, 2);
  std::vector<int32_t> index;
  Array<T> x_rows(R * I), g_rows(R * O);
  for (int32_t r = 0; r < R; ++r) {
    index.push_back(static_cast<int32_t>(r * 7 % kTokens));
    std::copy_n(x.data() + index.back() * I, I, x_rows.data() + r * I);
    std::copy_n(g.data() + index.back() * O, O, g_rows.data() + r * O);
  }
  Array<T> copied(3 * O * I), gathered(3 * O * I);
  grouped_gemm_grad_weight<T>(groups, {g_rows.data()}, {x_rows.data()}, {copied.data(), false});
  grouped_gemm_grad_weight<T>(groups, {g.data(), index.data()}, {x.data(), index.data()},
                              {gathered.data(), false});
  EXPECT_TRUE(gathered.same_bits(copied));
}

TYPED_TEST(GroupedGemm, GivesARowTheSameBitsWhateverItsNeighbours) {
  using T = TypeParam;
  constexpr int64_t I = 33, O = 47;
  const std::vector<int32_t> many = {0, 0, 301};
  const std::vector<int32_t> one = {0, 0, 1};
  const auto x = Array<T>::uniform(301 * I, 1);
  const auto w = Array<T>::uniform(2 * O * I, 2);
  Array<T> all(301 * O), alone(O);
  grouped_gemm<T>({2, many.data(), I, O}, x.data(), w.data(), all.data());
  for (const int64_t row : {0, 13, 255, 256, 300}) {
    grouped_gemm<T>({2, one.data(), I, O}, x.data() + row * I, w.data(), alone.data());
    for (int64_t o = 0; o < O; ++o) ASSERT_EQ(alone[o], all[row * O + o]) << row << " " << o;
  }
}

TYPED_TEST(GroupedGemm, GivesTheSameBitsOnAnyNumberOfThreads) {
  using T = TypeParam;
  // Few tiles, so that columns are cut as well as rows.
  constexpr int64_t I = 300, O = 270;
  const std::vector<int32_t> offsets = {0, 260, 260, 275};
  const Groups groups{3, offsets.data(), I, O};
  const auto x = Array<T>::uniform(275 * I, 1);
  const auto w = Array<T>::uniform(3 * O * I, 2);
  const auto g = Array<T>::uniform(275 * O, 3);
  testing::expect_same_bits_on_any_threads([&] {
    Array<T> y(275 * O);
    grouped_gemm(groups, x.data(), w.data(), y.data());
    return y;
  });
  testing::expect_same_bits_on_any_threads([&] {
    Array<T> grad_x(275 * I);
    grouped_gemm_grad_x<T>(groups, g.data(), w.data(), {grad_x.data(), false});
    return grad_x;
  });
  testing::expect_same_bits_on_any_threads([&] {
    Array<T> grad_w(3 * O * I);
    grouped_gemm_grad_weight<T>(groups, {g.data()}, {x.data()}, {grad_w.data(), false});
    return grad_w;
  });
}

}  // namespace
}  // namespace sluice::kernels
