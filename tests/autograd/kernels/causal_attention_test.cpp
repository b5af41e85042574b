#include "autograd/kernels/causal_attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "autograd/kernels/reference/causal_attention.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;

// Scores of up to 16 products, an exponential, a weighted mean of up to 300 values.
constexpr double kCoefficient = 300.0;

template <class T>
class Attention : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Attention, FloatTypes);

struct Case {
  AttentionShape shape;
  std::vector<AttentionSegment> segments;
  std::vector<int64_t> windows = {};  // one for each key head, or none
  int64_t chunk = 0;                  // keys of a chunk, 0: none
};

/// Chunks for every query and key head, and a view of them.
struct Chunks {
  /// The first chunk of each segment is seen by all; each query is given one of the earlier chunks
  /// and one slot that is empty.
  Chunks(const Case& c) : view{c.chunk, 1, 2, nullptr} {
    int64_t queries = 0;
    for (const auto& segment : c.segments) queries = std::max(queries, segment.q_end);
    chosen.assign(static_cast<size_t>(queries * c.shape.K * 2), -1);
    for (const auto& s : c.segments) {
      for (int64_t i = s.q_begin; i < s.q_end; ++i) {
        const int64_t own = (s.k_end - s.k_begin - s.q_end + i) / c.chunk;
        for (int64_t head = 0; head < c.shape.K && own > 0; ++head) {
          chosen[static_cast<size_t>((i * c.shape.K + head) * 2)] =
              static_cast<int32_t>((7 * i + 3 * head) % own);
        }
      }
    }
    view.chosen = chosen.data();
  }
  std::vector<int32_t> chosen;
  KeyChunks view;
};

/// The case's shape, with its windows and chunks.
AttentionShape shape_of(const Case& c, const Chunks* chunks) {
  AttentionShape shape = c.shape;
  if (!c.windows.empty()) shape.windows = c.windows.data();
  if (chunks != nullptr) shape.chunks = &chunks->view;
  return shape;
}

std::vector<Case> cases() {
  return {{{1, 1, 1, 1.0}, {{0, 1, 0, 1}}},
          {{2, 2, 5, 0.7}, {{0, 9, 0, 9}}},
          {{4, 2, 8, 0.35}, {{0, 127, 0, 127}, {127, 255, 127, 255}, {255, 256, 255, 256}}},
          {{3, 1, 16, 0.25}, {{0, 300, 0, 300}}},
          {{2, 1, 4, 0.5, 5}, {{0, 40, 0, 40}}},
          {{2, 1, 4, 0.5, 130}, {{0, 290, 0, 290}}},
          {{2, 1, 4, 0.5, 1}, {{0, 33, 0, 33}}},
          {{2, 2, 4, 0.5}, {{0, 3, 0, 200}}},      // three queries on a cache
          {{2, 2, 4, 0.5, 50}, {{0, 1, 0, 200}}},  // one query, windowed
          {{6, 2, 70, 0.1}, {{0, 230, 0, 230}}},   // heads wider than a tile, three to a group
          {{5, 1, 3, 0.5, 7}, {{0, 60, 0, 60}}},
          {{.H = 6, .K = 2, .P = 8, .scale = 0.4, .heads_alternate = true}, {{0, 130, 0, 130}}},
          {{4, 2, 24, 0.2, kNoWindow, 7}, {{0, 130, 0, 130}, {130, 280, 130, 280}}},
          {{2, 1, 5, 0.5, 40, 70}, {{0, 150, 0, 150}}},
          {{2, 1, 6, 0.5, kNoWindow, 4}, {{0, 2, 0, 140}}},
          {{6, 3, 8, 0.4}, {{0, 250, 0, 250}, {250, 280, 250, 280}}, {3, 130, kNoWindow}},
          {{4, 2, 8, 0.4, 20}, {{0, 260, 0, 260}, {260, 300, 260, 300}}, {}, 16},
          {{4, 4, 8, 0.4, 1}, {{0, 260, 0, 260}}, {}, 130},  // wider than a tile
          {{2, 1, 8, 0.4, 9, 3}, {{0, 3, 0, 200}}, {}, 24},
          {{2, 1, 4, 0.5}, {}}};
}

template <class T>
struct Arrays {
  Array<T> q, k, v, grad_o;
};

template <class T>
Arrays<T> arrays_for(const Case& c) {
  int64_t queries = 0;
  int64_t keys = 0;
  for (const auto& segment : c.segments) {
    queries = std::max(queries, segment.q_end);
    keys = std::max(keys, segment.k_end);
  }
  const auto& s = c.shape;
  const int64_t V = s.value_width();
  return {Array<T>::uniform(queries * s.H * s.P, 1, -2, 2),
          Array<T>::uniform(keys * s.K * s.P, 2, -2, 2), Array<T>::uniform(keys * s.K * V, 3),
          Array<T>::uniform(queries * s.H * V, 4)};
}

TYPED_TEST(Attention, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    const std::optional<Chunks> chunks = c.chunk > 0 ? std::optional<Chunks>(c) : std::nullopt;
    const AttentionShape shape = shape_of(c, chunks ? &*chunks : nullptr);
    const Arrays<T> a = arrays_for<T>(c);
    const int64_t q_size = a.q.size();
    const int64_t k_size = a.k.size();
    const int64_t v_size = a.v.size();
    const auto q64 = a.q.in_double(), k64 = a.k.in_double(), v64 = a.v.in_double(),
               g64 = a.grad_o.in_double();
    Array<T> o(a.grad_o.size()), lse(q_size / c.shape.P);
    Array<double> o64(a.grad_o.size()), lse64(q_size / c.shape.P);
    causal_attention<T>(shape, c.segments,
                        {a.q.data(), a.k.data(), a.v.data(), o.data(), lse.data()});
    reference::causal_attention<double>(
        shape, c.segments, {q64.data(), k64.data(), v64.data(), o64.data(), lse64.data()});
    expect_close(o, o64, kCoefficient);
    expect_close(lse, lse64, kCoefficient);
    for (const bool accumulate : {false, true}) {
      Array<T> grad_q(q_size, T(0.5)), grad_k(k_size, T(0.5)), grad_v(v_size, T(0.5));
      const double start = accumulate ? 0.5 : 0.0;
      Array<double> grad_q64(q_size, start), grad_k64(k_size, start), grad_v64(v_size, start);
      causal_attention_backward<T>(shape, c.segments,
                                   {a.q.data(),
                                    a.k.data(),
                                    a.v.data(),
                                    o.data(),
                                    lse.data(),
                                    a.grad_o.data(),
                                    {grad_q.data(), accumulate},
                                    {grad_k.data(), accumulate},
                                    {grad_v.data(), accumulate}});
      reference::causal_attention_backward<double>(shape, c.segments,
                                                   {q64.data(),
                                                    k64.data(),
                                                    v64.data(),
                                                    o64.data(),
                                                    lse64.data(),
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

TYPED_TEST(Attention, TurnsQueriesAndKeysAsRopeDoesBeforehand) {
  using T = TypeParam;
  const AttentionShape shape{4, 2, 10, 0.4, 200};
  const Case c{shape, {{0, 37, 0, 37}, {37, 337, 37, 337}}};
  const Arrays<T> a = arrays_for<T>(c);
  std::vector<int32_t> position;
  for (int32_t n = 0; n < 337; ++n) position.push_back(n < 37 ? n : n - 37);
  for (const RopeLayout layout : {RopeLayout::half_split, RopeLayout::interleaved}) {
    const RopeFrequencies frequencies = rope_frequencies({.rotary_dim = 8});
    Array<T> cos(300 * 4), sin(300 * 4);
    rope_table<T>(frequencies, 300, cos.data(), sin.data());
    const auto rope_of = [&](int64_t heads) {
      return Rope<T>{heads, shape.P, 4, layout, position.data(), cos.data(), sin.data()};
    };
    const Rope<T> of_q = rope_of(shape.H);
    const Rope<T> of_k = rope_of(shape.K);
    Array<T> q(a.q.size()), k(a.k.size());
    rope<T>(337, of_q, a.q.data(), q.data());
    rope<T>(337, of_k, a.k.data(), k.data());

    Array<T> early(a.q.size()), early_lse(337 * 4), o(a.q.size()), lse(337 * 4);
    causal_attention<T>(shape, c.segments,
                        {q.data(), k.data(), a.v.data(), early.data(), early_lse.data()});
    causal_attention<T>(shape, c.segments,
                        {a.q.data(), a.k.data(), a.v.data(), o.data(), lse.data(), &of_q});
    EXPECT_TRUE(o.same_bits(early));
    EXPECT_TRUE(lse.same_bits(early_lse));
    for (const bool accumulate : {false, true}) {
      Array<T> turned_q(a.q.size()), turned_k(a.k.size()), early_v(a.k.size(), T(0.5));
      causal_attention_backward<T>(shape, c.segments,
                                   {q.data(),
                                    k.data(),
                                    a.v.data(),
                                    o.data(),
                                    lse.data(),
                                    a.grad_o.data(),
                                    {turned_q.data(), false},
                                    {turned_k.data(), false},
                                    {early_v.data(), accumulate}});
      Array<T> early_q(a.q.size(), T(0.5)), early_k(a.k.size(), T(0.5));
      rope_backward<T>(337, of_q, turned_q.data(), {early_q.data(), accumulate});
      rope_backward<T>(337, of_k, turned_k.data(), {early_k.data(), accumulate});

      Array<T> grad_q(a.q.size(), T(0.5)), grad_k(a.k.size(), T(0.5)), grad_v(a.k.size(), T(0.5));
      causal_attention_backward<T>(shape, c.segments,
                                   {a.q.data(),
                                    a.k.data(),
                                    a.v.data(),
                                    o.data(),
                                    lse.data(),
                                    a.grad_o.data(),
                                    {grad_q.data(), accumulate},
                                    {grad_k.data(), accumulate},
                                    {grad_v.data(), accumulate},
                                    &of_q});
      EXPECT_TRUE(grad_q.same_bits(early_q));
      EXPECT_TRUE(grad_k.same_bits(early_k));
      EXPECT_TRUE(grad_v.same_bits(early_v));
    }
  }
}

TYPED_TEST(Attention, OfAPackedDocumentEqualsThatOfTheDocumentAloneBitForBit) {
  using T = TypeParam;
  const AttentionShape shape{2, 1, 8, 0.4, 140};
  const Case packed{shape, {{0, 37, 0, 37}, {37, 237, 37, 237}, {237, 240, 237, 240}}};
  const Arrays<T> a = arrays_for<T>(packed);
  Array<T> together(a.q.size()), lse(240 * 2);
  causal_attention<T>(shape, packed.segments,
                      {a.q.data(), a.k.data(), a.v.data(), together.data(), lse.data()});
  for (const auto& segment : packed.segments) {
    const int64_t length = segment.q_end - segment.q_begin;
    Array<T> alone(length * 16);
    const std::vector<AttentionSegment> one = {{0, length, 0, length}};
    causal_attention<T>(shape, one,
                        {a.q.data() + segment.q_begin * 16, a.k.data() + segment.q_begin * 8,
                         a.v.data() + segment.q_begin * 8, alone.data()});
    for (int64_t i = 0; i < alone.size(); ++i)
      ASSERT_EQ(alone[i], together[segment.q_begin * 16 + i]);
  }
}

TYPED_TEST(Attention, OfACachedTokenEqualsItsRowOfTheFullPassBitForBit) {
  using T = TypeParam;
  const AttentionShape shape{2, 1, 8, 0.4};
  const Case full{shape, {{0, 270, 0, 270}}};
  const Arrays<T> a = arrays_for<T>(full);
  Array<T> o(a.q.size());
  causal_attention<T>(shape, full.segments, {a.q.data(), a.k.data(), a.v.data(), o.data()});
  for (const int64_t token : {0, 1, 127, 128, 200, 269}) {
    Array<T> one(16);
    const std::vector<AttentionSegment> step = {{0, 1, 0, token + 1}};
    causal_attention<T>(shape, step, {a.q.data() + token * 16, a.k.data(), a.v.data(), one.data()});
    for (int64_t i = 0; i < 16; ++i) ASSERT_EQ(one[i], o[token * 16 + i]) << token;
  }
}

TYPED_TEST(Attention, GivesTheSameGradientsOnAnyThreadsAndHoweverTheWorkIsCut) {
  using T = TypeParam;
  // One document is cut by keys and by queries; the same document four times over is one task each.
  const AttentionShape shape{2, 1, 8, 0.4, 200};
  constexpr int64_t kTokens = 300;
  std::vector<AttentionSegment> four;
  for (int64_t i = 0; i < 4; ++i) {
    four.push_back({i * kTokens, (i + 1) * kTokens, i * kTokens, (i + 1) * kTokens});
  }
  const std::vector<AttentionSegment> one = {four[0]};
  Arrays<T> a = arrays_for<T>({shape, four});
  for (Array<T>* array : {&a.q, &a.k, &a.v, &a.grad_o}) {
    const int64_t part = array->size() / 4;
    for (int64_t i = part; i < array->size(); ++i) (*array)[i] = (*array)[i - part];
  }
  Array<T> o(a.q.size()), lse(a.q.size() / shape.P);
  causal_attention<T>(shape, four, {a.q.data(), a.k.data(), a.v.data(), o.data(), lse.data()});
  const auto gradients = [&](const std::vector<AttentionSegment>& segments) {
    Array<T> all(a.q.size() + 2 * a.k.size());
    causal_attention_backward<T>(shape, segments,
                                 {a.q.data(),
                                  a.k.data(),
                                  a.v.data(),
                                  o.data(),
                                  lse.data(),
                                  a.grad_o.data(),
                                  {all.data(), false},
                                  {all.data() + a.q.size(), false},
                                  {all.data() + a.q.size() + a.k.size(), false}});
    return all;
  };
  testing::expect_same_bits_on_any_threads([&] { return gradients(one); });
  testing::expect_same_bits_on_any_threads([&] { return gradients(four); });
  const Array<T> cut = gradients(one);
  const Array<T> whole = gradients(four);
  for (const auto& [begin, size] :
       {std::pair(int64_t{0}, a.q.size() / 4), std::pair(a.q.size(), a.k.size() / 4),
        std::pair(a.q.size() + a.k.size(), a.k.size() / 4)}) {
    for (int64_t i = begin; i < begin + size; ++i) ASSERT_EQ(cut[i], whole[i]);
  }
}

TYPED_TEST(Attention, TakesValuesFromTheColumnsOfWiderRows) {
  // Keys [c | r] and values c, as latent attention's cache has them: one array for both.
  using T = TypeParam;
  constexpr int64_t kTokens = 130, H = 3, P = 11, V = 7;
  const std::vector<AttentionSegment> segments = {{0, kTokens, 0, kTokens}};
  const AttentionShape shape{H, 1, P, 0.4, kNoWindow, V};
  const auto q = Array<T>::uniform(kTokens * H * P, 1, -2, 2);
  const auto rows = Array<T>::uniform(kTokens * P, 2, -2, 2);
  Array<T> v(kTokens * V), apart(kTokens * H * V), o(kTokens * H * V);
  for (int64_t i = 0; i < v.size(); ++i) v[i] = rows[i / V * P + i % V];
  causal_attention<T>(shape, segments, {q.data(), rows.data(), v.data(), apart.data()});
  causal_attention<T>(
      shape, segments,
      {q.data(), rows.data(), rows.data(), o.data(), nullptr, nullptr, /*value_stride=*/P});
  EXPECT_TRUE(o.same_bits(apart));
}

TYPED_TEST(Attention, WithChunksThatCoverEverythingIsFullAttention) {
  using T = TypeParam;
  constexpr int64_t kTokens = 220, kChunk = 20;
  const Case full{{2, 1, 8, 0.4}, {{0, kTokens, 0, kTokens}}};
  const Arrays<T> a = arrays_for<T>(full);
  Array<T> o(a.q.size()), covered(a.q.size());
  causal_attention<T>(full.shape, full.segments, {a.q.data(), a.k.data(), a.v.data(), o.data()});
  std::vector<int32_t> chosen;
  for (int64_t i = 0; i < kTokens; ++i) {
    for (int32_t c = 0; c < kTokens / kChunk; ++c) chosen.push_back(c * kChunk <= i ? c : -1);
  }
  const KeyChunks chunks{kChunk, 0, kTokens / kChunk, chosen.data()};
  AttentionShape shape = full.shape;
  shape.window = 1;
  shape.chunks = &chunks;
  causal_attention<T>(shape, full.segments, {a.q.data(), a.k.data(), a.v.data(), covered.data()});
  // Other tiles, another order of the sums.
  expect_close(covered, o.in_double(), kCoefficient);
}

TYPED_TEST(Attention, WithAWindowForEachHeadIsThatOfTheHeadsAlone) {
  using T = TypeParam;
  constexpr int64_t kTokens = 240, K = 2, P = 8;
  const Case both{{K, K, P, 0.4}, {{0, kTokens, 0, kTokens}}};
  const Arrays<T> a = arrays_for<T>(both);
  const std::vector<int64_t> windows = {5, 120};
  AttentionShape shape = both.shape;
  shape.windows = windows.data();
  Array<T> together(a.q.size());
  causal_attention<T>(shape, both.segments, {a.q.data(), a.k.data(), a.v.data(), together.data()});
  for (int64_t head = 0; head < K; ++head) {
    Array<T> q(kTokens * P), k(kTokens * P), v(kTokens * P), o(kTokens * P);
    for (int64_t i = 0; i < q.size(); ++i) {
      const int64_t at = (i / P * K + head) * P + i % P;
      q[i] = a.q[at];
      k[i] = a.k[at];
      v[i] = a.v[at];
    }
    causal_attention<T>({1, 1, P, 0.4, windows[static_cast<size_t>(head)]}, both.segments,
                        {q.data(), k.data(), v.data(), o.data()});
    for (int64_t i = 0; i < o.size(); ++i) {
      ASSERT_EQ(together[(i / P * K + head) * P + i % P], o[i]) << head;
    }
  }
}

TYPED_TEST(Attention, WithChunksGivesTheSameBitsHoweverTheWorkIsCut) {
  // One document is cut by keys and by queries; four copies of it are one task each.
  using T = TypeParam;
  constexpr int64_t kTokens = 300;
  std::vector<AttentionSegment> four;
  for (int64_t i = 0; i < 4; ++i) {
    four.push_back({i * kTokens, (i + 1) * kTokens, i * kTokens, (i + 1) * kTokens});
  }
  Case c{{2, 1, 8, 0.4, 30}, four, {}, 48};
  Arrays<T> a = arrays_for<T>(c);
  for (Array<T>* array : {&a.q, &a.k, &a.v, &a.grad_o}) {
    const int64_t part = array->size() / 4;
    for (int64_t i = part; i < array->size(); ++i) (*array)[i] = (*array)[i - part];
  }
  Chunks chunks(c);
  for (size_t i = chunks.chosen.size() / 4; i < chunks.chosen.size(); ++i) {
    chunks.chosen[i] = chunks.chosen[i - chunks.chosen.size() / 4];
  }
  const AttentionShape shape = shape_of(c, &chunks);
  Array<T> o(a.q.size()), lse(a.q.size() / 8);
  causal_attention<T>(shape, four, {a.q.data(), a.k.data(), a.v.data(), o.data(), lse.data()});
  const auto gradients = [&](std::span<const AttentionSegment> segments) {
    Array<T> all(a.q.size() + 2 * a.k.size());
    causal_attention_backward<T>(shape, segments,
                                 {a.q.data(),
                                  a.k.data(),
                                  a.v.data(),
                                  o.data(),
                                  lse.data(),
                                  a.grad_o.data(),
                                  {all.data(), false},
                                  {all.data() + a.q.size(), false},
                                  {all.data() + a.q.size() + a.k.size(), false}});
    return all;
  };
  const std::span<const AttentionSegment> one(four.data(), 1);
  testing::expect_same_bits_on_any_threads([&] { return gradients(one); });
  const Array<T> cut = gradients(one);
  const Array<T> whole = gradients(four);
  for (const auto& [begin, size] :
       {std::pair(int64_t{0}, a.q.size() / 4), std::pair(a.q.size(), a.k.size() / 4),
        std::pair(a.q.size() + a.k.size(), a.k.size() / 4)}) {
    for (int64_t i = begin; i < begin + size; ++i) ASSERT_EQ(cut[i], whole[i]);
  }
}

TYPED_TEST(Attention, OfTheLastPositionMergesFromDisjointKeys) {
  // lse = log(e^lse_1 + e^lse_2) and o = e^(lse_1 - lse) o_1 + e^(lse_2 - lse) o_2 over two parts
  // of the keys.
  using T = TypeParam;
  constexpr int64_t kKeys = 200, kFirst = 90, P = 4;
  const auto q = Array<T>::uniform(P, 1, -2, 2);
  const auto k = Array<T>::uniform(kKeys * P, 2, -2, 2);
  const auto v = Array<T>::uniform(kKeys * P, 3);
  const auto attend = [&](int64_t begin, int64_t end, Array<T>& o) {
    Array<T> lse(1);
    const std::vector<AttentionSegment> segments = {{0, 1, begin, end}};
    causal_attention<T>({1, 1, P, 0.5}, segments,
                        {q.data(), k.data(), v.data(), o.data(), lse.data()});
    return static_cast<double>(lse[0]);
  };
  Array<T> all(P), first(P), second(P);
  const double lse = attend(0, kKeys, all);
  const double lse_1 = attend(0, kFirst, first);
  const double lse_2 = attend(kFirst, kKeys, second);
  const double tolerance = kCoefficient * static_cast<double>(std::numeric_limits<T>::epsilon());
  EXPECT_NEAR(lse, std::log(std::exp(lse_1) + std::exp(lse_2)), tolerance);
  for (int64_t p = 0; p < P; ++p) {
    EXPECT_NEAR(static_cast<double>(all[p]),
                std::exp(lse_1 - lse) * static_cast<double>(first[p]) +
                    std::exp(lse_2 - lse) * static_cast<double>(second[p]),
                tolerance);
  }
}

TYPED_TEST(Attention, OfGroupedHeadsEqualsThatOfRepeatedKeyHeads) {
  using T = TypeParam;
  constexpr int64_t kTokens = 150, H = 4, P = 8;
  const std::vector<AttentionSegment> segments = {{0, kTokens, 0, kTokens}};
  const auto q = Array<T>::uniform(kTokens * H * P, 1, -2, 2);
  const auto k = Array<T>::uniform(kTokens * 2 * P, 2, -2, 2);
  const auto v = Array<T>::uniform(kTokens * 2 * P, 3);
  Array<T> k_all(kTokens * H * P), v_all(kTokens * H * P);
  for (int64_t i = 0; i < k_all.size(); ++i) {
    const int64_t token = i / (H * P), head = i / P % H;
    k_all[i] = k[(token * 2 + head / 2) * P + i % P];
    v_all[i] = v[(token * 2 + head / 2) * P + i % P];
  }
  Array<T> grouped(q.size()), repeated(q.size());
  causal_attention<T>({H, 2, P, 0.4}, segments, {q.data(), k.data(), v.data(), grouped.data()});
  causal_attention<T>({H, H, P, 0.4}, segments,
                      {q.data(), k_all.data(), v_all.data(), repeated.data()});
  EXPECT_TRUE(grouped.same_bits(repeated));
}

TYPED_TEST(Attention, WithAWindowOfTheWholeLengthIsFullAttention) {
  using T = TypeParam;
  const Case full{{2, 1, 8, 0.4}, {{0, 150, 0, 150}}};
  const Arrays<T> a = arrays_for<T>(full);
  Array<T> wide(a.q.size()), o(a.q.size());
  causal_attention<T>(full.shape, full.segments, {a.q.data(), a.k.data(), a.v.data(), o.data()});
  AttentionShape windowed = full.shape;
  windowed.window = 150;
  causal_attention<T>(windowed, full.segments, {a.q.data(), a.k.data(), a.v.data(), wide.data()});
  EXPECT_TRUE(wide.same_bits(o));
}

TEST(AttentionNumbers, AreThoseOfTheMethodNotes) {
  const std::vector<double> q = {0.0, 2.0}, k = {1.0, -1.0}, v = {3.0, 5.0}, grad_o = {0.0, 1.0};
  const std::vector<AttentionSegment> segments = {{0, 2, 0, 2}};
  std::vector<double> o(2), lse(2), grad_q(2), grad_k(2), grad_v(2);
  causal_attention<double>({1, 1, 1, 1.0}, segments,
                           {q.data(), k.data(), v.data(), o.data(), lse.data()});
  EXPECT_NEAR(lse[1], 2.01814993, 1e-8);
  EXPECT_NEAR(o[1], 3.03597242, 1e-8);
  causal_attention_backward<double>({1, 1, 1, 1.0}, segments,
                                    {q.data(),
                                     k.data(),
                                     v.data(),
                                     o.data(),
                                     lse.data(),
                                     grad_o.data(),
                                     {grad_q.data(), false},
                                     {grad_k.data(), false},
                                     {grad_v.data(), false}});
  EXPECT_NEAR(grad_q[1], -.070651, 6e-7);
  EXPECT_NEAR(grad_k[0], -.070651, 6e-7);
  EXPECT_NEAR(grad_k[1], .070651, 6e-7);
  EXPECT_NEAR(grad_v[0], .982014, 6e-7);
  EXPECT_NEAR(grad_v[1], .017986, 6e-7);
}

}  // namespace
}  // namespace sluice::kernels
