#include "autograd/kernels/gated_slot_attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/kernels/reference/gated_slot_attention.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;

// Recurrences over up to 130 tokens, products of up to 33 terms, softmax over up to 20 slots.
constexpr double kCoefficient = 2000.0;

template <class T>
class GatedSlots : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(GatedSlots, FloatTypes);

struct Case {
  GatedSlotShape shape;
  std::vector<int64_t> offsets;
};

std::vector<Case> cases() {
  return {{{1, 1, 1, 1, 1.0}, {0, 1}},
          {{2, 3, 5, 4, 0.7}, {0, 9}},
          {{1, 8, 16, 16, 0.25}, {0, 32, 65, 66, 130}},
          {{3, 20, 33, 7, 0.2}, {0, 70, 101}},
          {{2, 4, 3, 3, 1.0}, {0}}};
}

std::vector<GatedSlotSequence> sequences_of(const Case& c) {
  std::vector<GatedSlotSequence> result;
  int64_t states = 0;
  for (size_t i = 0; i + 1 < c.offsets.size(); ++i) {
    result.push_back({c.offsets[i], c.offsets[i + 1], states});
    states += saved_slot_memories(c.offsets[i + 1] - c.offsets[i]);
  }
  return result;
}

template <class T>
struct Arrays {
  explicit Arrays(const Case& c) {
    const GatedSlotShape& s = c.shape;
    const int64_t rows = c.offsets.back() * s.H;
    q = Array<T>::uniform(rows * s.P, 1);
    k = Array<T>::uniform(rows * s.P, 2);
    v = Array<T>::uniform(rows * s.V, 3);
    log_gate = Array<T>::uniform(rows * s.M, 4, -0.7, -0.01);
    grad_o = Array<T>::uniform(rows * s.V, 5);
    o = Array<T>(grad_o.size());
    states = Array<T>(c.offsets.back() / kSlotSegment * s.H * s.memory());
    grad_q = Array<T>(q.size(), T(0.5));
    grad_k = Array<T>(k.size(), T(0.5));
    grad_v = Array<T>(v.size(), T(0.5));
    grad_log_gate = Array<T>(log_gate.size(), T(0.5));
  }
  [[nodiscard]] GatedSlotForward<T> forward() {
    return {q.data(), k.data(), v.data(), log_gate.data(), o.data(), states.data()};
  }
  [[nodiscard]] GatedSlotBackward<T> backward(bool accumulate = true) {
    return {q.data(),
            k.data(),
            v.data(),
            log_gate.data(),
            states.data(),
            grad_o.data(),
            {grad_q.data(), accumulate},
            {grad_k.data(), accumulate},
            {grad_v.data(), accumulate},
            {grad_log_gate.data(), accumulate}};
  }
  [[nodiscard]] std::vector<const Array<T>*> results() const {
    return {&o, &grad_q, &grad_k, &grad_v, &grad_log_gate};
  }
  Array<T> q{0}, k{0}, v{0}, log_gate{0}, grad_o{0}, o{0}, states{0}, grad_q{0}, grad_k{0},
      grad_v{0}, grad_log_gate{0};
};

TYPED_TEST(GatedSlots, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    const auto sequences = sequences_of(c);
    Arrays<T> a(c);
    Arrays<double> expected(c);
    gated_slot_attention<T>(c.shape, sequences, a.forward());
    reference::gated_slot_attention<double>(c.shape, sequences, expected.forward());
    gated_slot_attention_backward<T>(c.shape, sequences, a.backward());
    reference::gated_slot_attention_backward<double>(c.shape, sequences, expected.backward());
    for (size_t i = 0; i < a.results().size(); ++i) {
      expect_close(*a.results()[i], *expected.results()[i], kCoefficient);
      EXPECT_TRUE(a.results()[i]->guards_intact());
    }
    EXPECT_TRUE(a.states.guards_intact());
    Arrays<T> fresh(c);
    gated_slot_attention<T>(c.shape, sequences, fresh.forward());
    gated_slot_attention_backward<T>(c.shape, sequences, fresh.backward(false));
    for (int64_t i = 0; i < a.grad_q.size(); ++i) {
      EXPECT_NEAR(fresh.grad_q[i] + T(0.5), a.grad_q[i], 1e-4);
    }
  }
}

TYPED_TEST(GatedSlots, GivesTheSameBitsOnAnyThreadsAndASequenceAlone) {
  using T = TypeParam;
  const Case c = cases()[2];
  const auto sequences = sequences_of(c);
  const int before = num_threads();
  const auto run = [&](Arrays<T>& a) {
    gated_slot_attention<T>(c.shape, sequences, a.forward());
    gated_slot_attention_backward<T>(c.shape, sequences, a.backward());
  };
  set_num_threads(1);
  Arrays<T> one(c);
  run(one);
  set_num_threads(3);
  Arrays<T> three(c);
  run(three);
  set_num_threads(before);
  for (size_t i = 0; i < one.results().size(); ++i) {
    EXPECT_TRUE(one.results()[i]->same_bits(*three.results()[i]));
  }
  Arrays<T> alone(c);
  gated_slot_attention<T>(c.shape, std::span(sequences).subspan(1, 1), alone.forward());
  const int64_t width = c.shape.H * c.shape.V;
  for (int64_t i = 32 * width; i < 65 * width; ++i) ASSERT_EQ(alone.o[i], one.o[i]);
}

TYPED_TEST(GatedSlots, GoesOnFromTheMemoryItLeftBehind) {
  using T = TypeParam;
  const Case c{{2, 6, 5, 4, 0.5}, {0, 50}};
  Arrays<T> whole(c);
  gated_slot_attention<T>(c.shape, sequences_of(c), whole.forward());
  Arrays<T> pieces(c);
  Array<T> memory(c.shape.H * c.shape.memory());
  for (const auto& [begin, end] : {std::pair<int64_t, int64_t>{0, 1}, {1, 20}, {20, 50}}) {
    const GatedSlotSequence piece{begin, end, 0};
    GatedSlotForward<T> args = pieces.forward();
    args.states = nullptr;
    args.memories = memory.data();
    gated_slot_attention<T>(c.shape, {&piece, 1}, args);
  }
  EXPECT_TRUE(pieces.o.same_bits(whole.o));
}

TYPED_TEST(GatedSlots, KeepsAllBehindOpenGatesAndTheTokenAloneBehindShutOnes) {
  using T = TypeParam;
  const Case c{{2, 5, 6, 4, 0.5}, {0, 40}};
  Arrays<T> open(c);
  for (int64_t i = 0; i < open.log_gate.size(); ++i) open.log_gate[i] = T{0};
  gated_slot_attention<T>(c.shape, sequences_of(c), open.forward());
  for (int64_t i = 0; i < open.o.size(); ++i) ASSERT_EQ(open.o[i], T{0});
  // Every slot holds the token: the softmax weighs equal values.
  Arrays<T> shut(c);
  for (int64_t i = 0; i < shut.log_gate.size(); ++i) shut.log_gate[i] = T{-1000};
  gated_slot_attention<T>(c.shape, sequences_of(c), shut.forward());
  expect_close(shut.o, shut.v.in_double(), kCoefficient);
}

TYPED_TEST(GatedSlots, AgreesWithAnExampleByHand) {
  using T = TypeParam;
  // Gates 1/2 and 1/4, k = 4 and then 8, v = 1 and then 0: slots hold (2, 3) and then (5, 27/4) as
  // keys, (1/2, 3/4) and then (1/4, 3/16) as values.
  const GatedSlotShape shape{1, 2, 1, 1, 1.0};
  const Array<T> q = Array<T>::of({T{0}, T{-1}});
  const Array<T> k = Array<T>::of({T{4}, T{8}});
  const Array<T> v = Array<T>::of({T{1}, T{0}});
  const auto half = static_cast<T>(std::log(0.5));
  const auto quarter = static_cast<T>(std::log(0.25));
  const Array<T> gate = Array<T>::of({half, quarter, half, quarter});
  Array<T> o(2);
  const GatedSlotSequence sequence{0, 2, 0};
  gated_slot_attention<T>(shape, {&sequence, 1},
                          {q.data(), k.data(), v.data(), gate.data(), o.data()});
  EXPECT_NEAR(o[0], 0.625, 1e-5);
  const double first = 1.0 / (1.0 + std::exp(5.0 - 6.75));
  EXPECT_NEAR(o[1], first * 0.25 + (1.0 - first) * 0.1875, 1e-5);
}

}  // namespace
}  // namespace sluice::kernels
