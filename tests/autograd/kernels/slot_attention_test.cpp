#include "autograd/kernels/slot_attention.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "autograd/kernels/reference/slot_attention.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;

// Scores of up to 33 products, softmax over up to 40 slots, sums over up to 70 tokens, divided by sums
// of weights that may be small.
constexpr double kCoefficient = 1000.0;

template <class T>
class SlotAttention : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(SlotAttention, FloatTypes);

struct Case {
  SlotShape shape;
  std::vector<SlotRange> ranges;
  int64_t tokens;
};

std::vector<Case> cases() {
  return {{{1, 1, 1, 1, 1.0}, {{0, 1}}, 1},
          {{3, 2, 5, 4, 0.7}, {{0, 9}}, 9},
          {{8, 1, 16, 16, 0.25}, {{10, 74}, {0, 7}, {7, 8}, {8, 8}}, 76},
          {{17, 3, 33, 7, 0.3}, {{0, 70}, {70, 101}}, 101},
          {{40, 2, 8, 8, 0.4}, {{0, 15}, {15, 31}, {31, 33}}, 33},
          {{4, 2, 3, 3, 1.0}, {}, 0}};
}

/// The arrays of one case: of `read`, out is the tokens'.
template <class T>
struct Arrays {
  Arrays(const Case& c, bool read) {
    const SlotShape& s = c.shape;
    const int64_t slots = std::ssize(c.ranges) * s.S * s.H;
    const int64_t tokens = c.tokens * s.H;
    token = Array<T>::uniform(tokens * s.P, 1, -2, 2);
    slot = Array<T>::uniform(slots * s.P, 2, -2, 2);
    v = Array<T>::uniform((read ? slots : tokens) * s.V, 3);
    grad_out = Array<T>::uniform((read ? tokens : slots) * s.V, 4);
    out = Array<T>(grad_out.size());
    grad_token = Array<T>(token.size(), T(0.5));
    grad_slot = Array<T>(slot.size(), T(0.5));
    grad_v = Array<T>(v.size(), T(0.5));
  }
  [[nodiscard]] SlotForward<T> forward() {
    return {token.data(), slot.data(), v.data(), out.data()};
  }
  [[nodiscard]] SlotBackward<T> backward() {
    return {token.data(),    slot.data(),       v.data(),         out.data(),
            grad_out.data(), grad_token.data(), grad_slot.data(), grad_v.data()};
  }
  Array<T> token{0}, slot{0}, v{0}, out{0}, grad_out{0}, grad_token{0}, grad_slot{0}, grad_v{0};
};

TYPED_TEST(SlotAttention, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    for (const bool read : {true, false}) {
      SCOPED_TRACE(fmt::format("{} slots, {} tokens, {}", c.shape.S, c.tokens, read));
      Arrays<T> a(c, read);
      Arrays<double> expected(c, read);
      if (read) {
        read_slots<T>(c.shape, c.ranges, a.forward());
        reference::read_slots<double>(c.shape, c.ranges, expected.forward());
        read_slots_backward<T>(c.shape, c.ranges, a.backward());
        reference::read_slots_backward<double>(c.shape, c.ranges, expected.backward());
      } else {
        write_slots<T>(c.shape, c.ranges, a.forward());
        reference::write_slots<double>(c.shape, c.ranges, expected.forward());
        write_slots_backward<T>(c.shape, c.ranges, a.backward());
        reference::write_slots_backward<double>(c.shape, c.ranges, expected.backward());
      }
      expect_close(a.out, expected.out, kCoefficient);
      expect_close(a.grad_token, expected.grad_token, kCoefficient);
      expect_close(a.grad_slot, expected.grad_slot, kCoefficient);
      expect_close(a.grad_v, expected.grad_v, kCoefficient);
      for (const Array<T>* array : {&a.out, &a.grad_token, &a.grad_slot, &a.grad_v}) {
        EXPECT_TRUE(array->guards_intact());
      }
    }
  }
}

TYPED_TEST(SlotAttention, GivesTheSameBitsOnAnyThreadsAndInAnyOrderOfSets) {
  using T = TypeParam;
  const Case c = cases()[2];
  const int before = num_threads();
  for (const bool read : {true, false}) {
    const auto run = [&](Arrays<T>& a) {
      if (read) {
        read_slots<T>(c.shape, c.ranges, a.forward());
        read_slots_backward<T>(c.shape, c.ranges, a.backward());
      } else {
        write_slots<T>(c.shape, c.ranges, a.forward());
        write_slots_backward<T>(c.shape, c.ranges, a.backward());
      }
    };
    set_num_threads(1);
    Arrays<T> one(c, read);
    run(one);
    set_num_threads(3);
    Arrays<T> three(c, read);
    run(three);
    EXPECT_TRUE(one.out.same_bits(three.out));
    EXPECT_TRUE(one.grad_token.same_bits(three.grad_token));
    EXPECT_TRUE(one.grad_slot.same_bits(three.grad_slot));
    EXPECT_TRUE(one.grad_v.same_bits(three.grad_v));
    // The first set alone.
    Arrays<T> alone(c, read);
    const std::span<const SlotRange> first(c.ranges.data(), 1);
    const int64_t width = c.shape.H * c.shape.V;
    if (read) {
      read_slots<T>(c.shape, first, alone.forward());
    } else {
      write_slots<T>(c.shape, first, alone.forward());
    }
    const int64_t begin = read ? c.ranges[0].begin * width : 0;
    const int64_t end = read ? c.ranges[0].end * width : c.shape.S * width;
    for (int64_t i = begin; i < end; ++i) ASSERT_EQ(alone.out[i], one.out[i]);
  }
  set_num_threads(before);
}

TYPED_TEST(SlotAttention, AgreesWithAnExampleByHand) {
  using T = TypeParam;
  // Two slots, two tokens of width 1; the scores of token 0 are log 3 and 0, of token 1 both 0.
  const SlotShape shape{2, 1, 1, 1, 1.0};
  const std::vector<SlotRange> ranges = {{0, 2}};
  const auto log3 = static_cast<T>(std::log(3.0));
  const Array<T> token = Array<T>::of({T{1}, T{0}});
  const Array<T> slot = Array<T>::of({log3, T{0}});
  const Array<T> v = Array<T>::of({T{8}, T{4}});
  Array<T> out(2);
  read_slots<T>(shape, ranges, {token.data(), slot.data(), v.data(), out.data()});
  EXPECT_NEAR(out[0], 0.75 * 8 + 0.25 * 4, 1e-5);
  EXPECT_NEAR(out[1], 6, 1e-5);
  // A = [3/4 1/4; 1/2 1/2]: slot 0 takes (3/4 8 + 1/2 4) / (5/4), slot 1 (1/4 8 + 1/2 4) / (3/4).
  write_slots<T>(shape, ranges, {token.data(), slot.data(), v.data(), out.data()});
  EXPECT_NEAR(out[0], 6.4, 1e-5);
  EXPECT_NEAR(out[1], 16.0 / 3.0, 1e-5);
}

}  // namespace
}  // namespace sluice::kernels
