#include "autograd/kernels/causal_conv1d.h"

#include <gtest/gtest.h>

#include <cmath>
#include <span>
#include <vector>

#include "autograd/kernels/reference/causal_conv1d.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;

// A few products of factors up to 2, a sigmoid good to 3 ulp; sums over up to 300 tokens.
constexpr double kCoefficient = 30.0;
double sum_coefficient(int64_t tokens) { return kCoefficient + static_cast<double>(tokens); }

template <class T>
class CausalConv1dKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(CausalConv1dKernel, FloatTypes);

struct Case {
  CausalConv1dShape shape;
  std::vector<int64_t> documents;
};

std::vector<Case> cases() {
  return {{{1, 1, false}, {0, 1}},
          {{1, 4, true}, {0, 2}},
          {{5, 4, true}, {0, 1, 3, 3, 6, 20}},
          {{16, 4, false}, {0, 33}},
          {{17, 3, true}, {0, 31, 32, 64, 65, 130}},
          {{70, 4, true}, {0, 100, 300}},
          {{129, 4, true}, {0, 40, 97}},
          {{3, 9, true}, {0, 4, 50, 70}},
          {{64, 2, true}, {0, 12}},
          {{8, 4, true}, {0}}};
}

template <class T>
struct Arrays {
  explicit Arrays(const Case& c)
      : tokens(c.documents.back()),
        x(Array<T>::uniform(tokens * c.shape.C, 1, -2, 2)),
        weight(Array<T>::uniform(c.shape.C * c.shape.K, 2)),
        bias(Array<T>::uniform(c.shape.C, 3)),
        grad_y(Array<T>::uniform(tokens * c.shape.C, 4)) {}
  int64_t tokens;
  Array<T> x, weight, bias, grad_y;
};

TYPED_TEST(CausalConv1dKernel, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    const auto& [C, K, silu] = c.shape;
    const Arrays<T> a(c);
    const auto x64 = a.x.in_double(), weight64 = a.weight.in_double(), bias64 = a.bias.in_double(),
               grad_y64 = a.grad_y.in_double();
    Array<T> y(a.x.size());
    Array<double> y64(a.x.size());
    causal_conv1d<T>(c.shape, c.documents, {a.x.data(), a.weight.data(), a.bias.data(), y.data()});
    reference::causal_conv1d<double>(c.shape, c.documents,
                                     {x64.data(), weight64.data(), bias64.data(), y64.data()});
    expect_close(y, y64, kCoefficient);
    for (const bool accumulate : {false, true}) {
      Array<T> grad_x(a.x.size(), T(0.5)), grad_weight(C * K, T(0.5)), grad_bias(C, T(0.5));
      Array<double> grad_x64(a.x.size(), 0.5), grad_weight64(C * K, 0.5), grad_bias64(C, 0.5);
      Array<double> slope(a.x.size());
      causal_conv1d_backward<T>(c.shape, c.documents,
                                {a.x.data(),
                                 a.weight.data(),
                                 a.bias.data(),
                                 a.grad_y.data(),
                                 {grad_x.data(), accumulate},
                                 {grad_weight.data(), accumulate},
                                 {grad_bias.data(), accumulate}});
      reference::causal_conv1d_backward<double>(c.shape, c.documents,
                                                {x64.data(),
                                                 weight64.data(),
                                                 bias64.data(),
                                                 grad_y64.data(),
                                                 {grad_x64.data(), accumulate},
                                                 {grad_weight64.data(), accumulate},
                                                 {grad_bias64.data(), accumulate}},
                                                slope.data());
      expect_close(grad_x, grad_x64, kCoefficient);
      expect_close(grad_weight, grad_weight64, sum_coefficient(a.tokens));
      expect_close(grad_bias, grad_bias64, sum_coefficient(a.tokens));
    }
  }
}

TYPED_TEST(CausalConv1dKernel, ReadsZerosInFrontOfADocument) {
  using T = TypeParam;
  const auto x = Array<T>::of({T(1), T(2), T(3), T(4), T(5)});
  const auto weight = Array<T>::of({T(1000), T(100), T(10), T(1)});
  Array<T> y(5);
  const std::vector<int64_t> documents = {0, 2, 5};
  causal_conv1d<T>({1, 4, false}, documents, {x.data(), weight.data(), nullptr, y.data()});
  const double expected[] = {1, 12, 3, 34, 345};
  for (int64_t i = 0; i < 5; ++i) EXPECT_EQ(static_cast<double>(y[i]), expected[i]);
}

TYPED_TEST(CausalConv1dKernel, OfAPackedDocumentEqualsThatOfTheDocumentAloneBitForBit) {
  using T = TypeParam;
  const Case packed{{21, 4, true}, {0, 1, 30, 33, 140}};
  const Arrays<T> a(packed);
  constexpr int64_t C = 21;
  const auto run = [&](std::span<const int64_t> documents, int64_t from, Array<T>& y,
                       Array<T>& grad_x) {
    causal_conv1d<T>(packed.shape, documents,
                     {a.x.data() + from * C, a.weight.data(), a.bias.data(), y.data()});
    causal_conv1d_backward<T>(packed.shape, documents,
                              {a.x.data() + from * C,
                               a.weight.data(),
                               a.bias.data(),
                               a.grad_y.data() + from * C,
                               {grad_x.data(), false},
                               {},
                               {}});
  };
  Array<T> y(a.x.size()), grad_x(a.x.size());
  run(packed.documents, 0, y, grad_x);
  for (size_t d = 0; d + 1 < packed.documents.size(); ++d) {
    const int64_t from = packed.documents[d];
    const std::vector<int64_t> alone = {0, packed.documents[d + 1] - from};
    Array<T> own(alone[1] * C), own_grad(alone[1] * C);
    run(alone, from, own, own_grad);
    for (int64_t i = 0; i < own.size(); ++i) {
      ASSERT_EQ(own[i], y[from * C + i]);
      ASSERT_EQ(own_grad[i], grad_x[from * C + i]);
    }
  }
}

TYPED_TEST(CausalConv1dKernel, GoesOnFromItsHistoryBitForBit) {
  using T = TypeParam;
  constexpr int64_t C = 19, kTokens = 23;
  for (const int64_t K : {1, 2, 4, 7}) {
    const Case c{{C, K, true}, {0, kTokens}};
    const Arrays<T> a(c);
    Array<T> full(kTokens * C);
    causal_conv1d<T>(c.shape, c.documents,
                     {a.x.data(), a.weight.data(), a.bias.data(), full.data()});
    for (const int64_t piece : {1, 2, 3, 5, 11}) {
      Array<T> y(kTokens * C), history((K - 1) * C);
      for (int64_t t = 0; t < kTokens; t += piece) {
        const int64_t n = std::min(piece, kTokens - t);
        const std::vector<int64_t> documents = {0, n};
        causal_conv1d<T>(
            c.shape, documents,
            {a.x.data() + t * C, a.weight.data(), a.bias.data(), y.data() + t * C, history.data()});
        advance_history<T>(c.shape, n, a.x.data() + t * C, history.data());
      }
      EXPECT_TRUE(y.same_bits(full)) << K << " taps, pieces of " << piece;
    }
  }
}

TEST(CausalConv1dThreads, GiveTheSameBits) {
  const Case c{{40, 4, true}, {0, 100, 101, 1500}};
  const Arrays<float> a(c);
  expect_same_bits_on_any_threads([&] {
    const int64_t size = a.x.size();
    Array<float> all(2 * size + 40 * 5);
    causal_conv1d<float>(c.shape, c.documents,
                         {a.x.data(), a.weight.data(), a.bias.data(), all.data()});
    causal_conv1d_backward<float>(c.shape, c.documents,
                                  {a.x.data(),
                                   a.weight.data(),
                                   a.bias.data(),
                                   a.grad_y.data(),
                                   {all.data() + size, false},
                                   {all.data() + 2 * size, false},
                                   {all.data() + 2 * size + 160, false}});
    return all;
  });
}

}  // namespace
}  // namespace sluice::kernels
