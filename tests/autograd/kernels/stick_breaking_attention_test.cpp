#include "autograd/kernels/stick_breaking_attention.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/stick_breaking_attention.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;

// Scores of up to 16 products, an exponential of a sum over up to 300 keys, a weighted sum; gradients
// add up the rounding that is carried along the keys, over up to 300 queries and three heads.
constexpr double kCoefficient = 2000.0;

template <class T>
class StickBreaking : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(StickBreaking, FloatTypes);

struct Case {
  AttentionShape shape;
  std::vector<AttentionSegment> segments;
  double key_shift = 0.0;  // added to all keys: sticks that last (below 0) or break at once
};

AttentionShape heads(int64_t H, int64_t K, int64_t P, double scale, int64_t V = 0,
                     bool alternate = false) {
  return {.H = H, .K = K, .P = P, .scale = scale, .V = V, .heads_alternate = alternate};
}

std::vector<Case> cases() {
  return {{heads(1, 1, 1, 1.0), {{0, 1, 0, 1}}},
          {heads(2, 2, 5, 0.7), {{0, 9, 0, 9}}},
          {heads(4, 2, 8, 0.35), {{0, 127, 0, 127}, {127, 255, 127, 255}, {255, 256, 255, 256}}},
          {heads(3, 1, 16, 0.25), {{0, 300, 0, 300}}},
          {heads(3, 1, 16, 0.25), {{0, 300, 0, 300}}, -1.0},
          {heads(2, 1, 4, 1.0, 7), {{0, 290, 0, 290}}, 2.0},
          {heads(6, 2, 70, 0.1, 33), {{0, 230, 0, 230}}, -0.5},
          {heads(6, 2, 8, 0.3, 0, true), {{0, 120, 0, 120}}},
          {heads(2, 2, 4, 0.5), {{0, 3, 0, 200}}, -0.5},  // three queries on a cache
          {heads(2, 1, 4, 0.5), {}}};
}

template <class T>
struct Arrays {
  explicit Arrays(const Case& c) {
    int64_t queries = 0;
    int64_t keys = 0;
    for (const auto& segment : c.segments) {
      queries = std::max(queries, segment.q_end);
      keys = std::max(keys, segment.k_end);
    }
    const auto& s = c.shape;
    // Positive queries, so that shifted keys shift all scores.
    q = Array<T>::uniform(queries * s.H * s.P, 1, 0, 2);
    k = Array<T>::uniform(keys * s.K * s.P, 2, -1, 1);
    for (int64_t i = 0; i < k.size(); ++i) k[i] += static_cast<T>(c.key_shift);
    v = Array<T>::uniform(keys * s.K * s.value_width(), 3);
    grad_o = Array<T>::uniform(queries * s.H * s.value_width(), 4);
  }
  Array<T> q{0}, k{0}, v{0}, grad_o{0};
};

/// q's, k's and v's gradients one after the other.
template <class T>
Array<T> gradients(const AttentionShape& shape, std::span<const AttentionSegment> segments,
                   const Arrays<T>& a, const Array<T>& o) {
  Array<T> all(a.q.size() + a.k.size() + a.v.size());
  stick_breaking_attention_backward<T>(shape, segments,
                                       {a.q.data(),
                                        a.k.data(),
                                        a.v.data(),
                                        o.data(),
                                        nullptr,
                                        a.grad_o.data(),
                                        {all.data(), false},
                                        {all.data() + a.q.size(), false},
                                        {all.data() + a.q.size() + a.k.size(), false}});
  return all;
}

TYPED_TEST(StickBreaking, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    const Arrays<T> a(c);
    const auto q64 = a.q.in_double(), k64 = a.k.in_double(), v64 = a.v.in_double(),
               g64 = a.grad_o.in_double();
    Array<T> o(a.grad_o.size());
    Array<double> o64(o.size());
    stick_breaking_attention<T>(c.shape, c.segments,
                                {a.q.data(), a.k.data(), a.v.data(), o.data()});
    reference::stick_breaking_attention<double>(c.shape, c.segments,
                                                {q64.data(), k64.data(), v64.data(), o64.data()});
    expect_close(o, o64, kCoefficient);
    for (const bool accumulate : {false, true}) {
      Array<T> grad_q(a.q.size(), T(0.5)), grad_k(a.k.size(), T(0.5)), grad_v(a.v.size(), T(0.5));
      const double start = accumulate ? 0.5 : 0.0;
      Array<double> grad_q64(a.q.size(), start), grad_k64(a.k.size(), start),
          grad_v64(a.v.size(), start);
      stick_breaking_attention_backward<T>(c.shape, c.segments,
                                           {a.q.data(),
                                            a.k.data(),
                                            a.v.data(),
                                            o.data(),
                                            nullptr,
                                            a.grad_o.data(),
                                            {grad_q.data(), accumulate},
                                            {grad_k.data(), accumulate},
                                            {grad_v.data(), accumulate}});
      reference::stick_breaking_attention_backward<double>(c.shape, c.segments,
                                                           {q64.data(),
                                                            k64.data(),
                                                            v64.data(),
                                                            o64.data(),
                                                            nullptr,
                                                            g64.data(),
                                                            {grad_q64.data()},
                                                            {grad_k64.data()},
                                                            {grad_v64.data()}});
      expect_close(grad_q, grad_q64, kCoefficient);
      expect_close(grad_k, grad_k64, kCoefficient);
      expect_close(grad_v, grad_v64, kCoefficient);
    }
  }
}

TYPED_TEST(StickBreaking, OfAPackedDocumentEqualsThatOfTheDocumentAloneBitForBit) {
  using T = TypeParam;
  const Case packed{heads(2, 1, 8, 0.2),
                    {{0, 37, 0, 37}, {37, 237, 37, 237}, {237, 240, 237, 240}}};
  const Arrays<T> a(packed);
  Array<T> together(a.q.size());
  stick_breaking_attention<T>(packed.shape, packed.segments,
                              {a.q.data(), a.k.data(), a.v.data(), together.data()});
  for (const auto& segment : packed.segments) {
    const int64_t length = segment.q_end - segment.q_begin;
    Array<T> alone(length * 16);
    const std::vector<AttentionSegment> one = {{0, length, 0, length}};
    stick_breaking_attention<T>(
        packed.shape, one,
        {a.q.data() + segment.q_begin * 16, a.k.data() + segment.q_begin * 8,
         a.v.data() + segment.q_begin * 8, alone.data()});
    for (int64_t i = 0; i < alone.size(); ++i) {
      ASSERT_EQ(alone[i], together[segment.q_begin * 16 + i]);
    }
  }
}

TYPED_TEST(StickBreaking, OfACachedTokenEqualsItsRowOfTheFullPassBitForBit) {
  using T = TypeParam;
  const Case full{heads(2, 1, 8, 0.2), {{0, 270, 0, 270}}, -0.5};
  const Arrays<T> a(full);
  Array<T> o(a.q.size());
  stick_breaking_attention<T>(full.shape, full.segments,
                              {a.q.data(), a.k.data(), a.v.data(), o.data()});
  for (const int64_t token : {0, 1, 111, 112, 200, 269}) {
    Array<T> one(16);
    const std::vector<AttentionSegment> step = {{0, 1, 0, token + 1}};
    stick_breaking_attention<T>(full.shape, step,
                                {a.q.data() + token * 16, a.k.data(), a.v.data(), one.data()});
    for (int64_t i = 0; i < 16; ++i) ASSERT_EQ(one[i], o[token * 16 + i]) << token;
  }
}

TYPED_TEST(StickBreaking, GivesTheSameGradientsOnAnyThreads) {
  using T = TypeParam;
  const Case c{heads(4, 2, 8, 0.2), {{0, 180, 0, 180}, {180, 300, 180, 300}}, -0.5};
  const Arrays<T> a(c);
  Array<T> o(a.q.size());
  stick_breaking_attention<T>(c.shape, c.segments, {a.q.data(), a.k.data(), a.v.data(), o.data()});
  testing::expect_same_bits_on_any_threads([&] { return gradients<T>(c.shape, c.segments, a, o); });
}

TYPED_TEST(StickBreaking, UsesItsStickUpAndLosesTheRest) {
  // With v = 1 a row of o is the sum of its weights: 1 - prod (1 - sigmoid(z)).
  using T = TypeParam;
  constexpr int64_t kTokens = 40;
  for (const double z : {-6.0, -1.0, 0.0, 3.0}) {
    const Array<T> q(kTokens, T{1});
    const Array<T> k(kTokens, static_cast<T>(z));
    const Array<T> v(kTokens, T{1});
    Array<T> o(kTokens);
    const std::vector<AttentionSegment> segments = {{0, kTokens, 0, kTokens}};
    stick_breaking_attention<T>(heads(1, 1, 1, 1.0), segments,
                                {q.data(), k.data(), v.data(), o.data()});
    for (int64_t i = 0; i < kTokens; ++i) {
      const double lost = std::pow(1.0 / (1.0 + std::exp(z)), static_cast<double>(i + 1));
      EXPECT_NEAR(static_cast<double>(o[i]), 1.0 - lost,
                  kCoefficient * static_cast<double>(std::numeric_limits<T>::epsilon()));
      EXPECT_LE(static_cast<double>(o[i]), 1.0 + 1e-6);
    }
  }
}

TYPED_TEST(StickBreaking, OfLargeScoresLooksAtTheNewestKeyOnly) {
  using T = TypeParam;
  constexpr int64_t kTokens = 130;
  const Array<T> q(kTokens, T{1});
  const Array<T> k(kTokens, T{100});
  const auto v = Array<T>::uniform(kTokens, 3);
  Array<T> o(kTokens);
  const std::vector<AttentionSegment> segments = {{0, kTokens, 0, kTokens}};
  stick_breaking_attention<T>(heads(1, 1, 1, 1.0), segments,
                              {q.data(), k.data(), v.data(), o.data()});
  for (int64_t i = 0; i < kTokens; ++i) EXPECT_EQ(o[i], v[i]) << i;
}

TEST(StickBreakingNumbers, AreThoseOfTheMethodNotes) {
  // z = [.5, -1, 2] for the third query: A read off by unit values.
  const std::vector<double> q = {0, 0, 1}, k = {.5, -1, 2};
  const std::vector<double> v = {1, 0, 0, 0, 1, 0, 0, 0, 1};
  std::vector<double> o(9);
  const std::vector<AttentionSegment> segments = {{0, 3, 0, 3}};
  stick_breaking_attention<double>(heads(1, 1, 1, 1.0, 3), segments,
                                   {q.data(), k.data(), v.data(), o.data()});
  EXPECT_NEAR(o[6], .054244, 5e-7);
  EXPECT_NEAR(o[7], .032059, 5e-7);
  EXPECT_NEAR(o[8], .880797, 5e-7);
}

}  // namespace
}  // namespace sluice::kernels
