#include "autograd/kernels/swiglu_experts.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/swiglu_experts.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;

// Three chains of sums one after another, each of up to 600 terms.
constexpr double kCoefficient = 2000.0;

template <class T>
class SwigluExperts : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(SwigluExperts, FloatTypes);

struct Case {
  std::vector<int32_t> offsets;
  int64_t D;
  int64_t F;
  bool gathers = true;
};

std::vector<Case> cases() {
  return {{{0, 3}, 5, 7},                     // one expert, less than a register tile
          {{0, 0, 4, 4, 4}, 17, 33},          // empty experts around one
          {{0, 0, 0}, 4, 4},                  // no row at all
          {{0, 300, 300, 301}, 16, 40},       // one expert with nearly all
          {{0, 1, 17, 49, 50, 130}, 32, 64},  // all sizes
          {{0, 20, 53}, 40, 600},             // F in parts
          {{0, 20, 53}, 530, 24},             // sums over D in parts
          {{0, 9}, 12, 8, false}};            // rows are tokens
}

/// A problem and its solution in double.
template <class T>
struct Problem {
  explicit Problem(const Case& c)
      : offsets(c.offsets),
        R(offsets.back()),
        E(static_cast<int64_t>(offsets.size()) - 1),
        D(c.D),
        F(c.F),
        // Half as many tokens as rows: tokens repeat.
        N(c.gathers ? (R + 1) / 2 : R),
        x(Array<T>::uniform(N * D, 1)),
        gate(Array<T>::uniform(E * F * D, 2, -0.5, 0.5)),
        up(Array<T>::uniform(E * F * D, 3, -0.5, 0.5)),
        down(Array<T>::uniform(E * F * D, 4, -0.5, 0.5)),
        grad_y(Array<T>::uniform(N * D, 5)),
        weight(Array<T>::uniform(R, 6)) {
    for (int32_t r = 0; r < R; ++r) {
      token_of_row.push_back(static_cast<int32_t>(r * 7 % std::max<int64_t>(1, N)));
      slot_of_row.push_back(static_cast<int32_t>(R - 1 - r));
    }
    if (c.gathers) return;
    token_of_row.clear();
    slot_of_row.clear();
  }
  [[nodiscard]] ExpertsShape shape() const {
    return {E, D, F, offsets.data(), token_of_row.empty() ? nullptr : token_of_row.data()};
  }
  [[nodiscard]] ExpertWeights<T> weights() const { return {gate.data(), up.data(), down.data()}; }

  std::vector<int32_t> offsets;
  std::vector<int32_t> token_of_row;
  std::vector<int32_t> slot_of_row;
  int64_t R, E, D, F, N;
  Array<T> x, gate, up, down, grad_y, weight;
};

/// All that forward and backward leave.
template <class T>
struct Results {
  Results(const Problem<T>& p, T value)
      : y(p.R * p.D),
        grad_rows(p.R * p.D, value),
        grad_weight(p.R, value),
        grad_gate(p.R * p.F),
        grad_up(p.R * p.F),
        hidden(p.R * p.F) {}
  Array<T> y, grad_rows, grad_weight, grad_gate, grad_up, hidden;

  [[nodiscard]] ExpertsBackward<T> backward(const Problem<T>& p, ExpertsHidden<const T> kept,
                                            bool accumulate) {
    const bool gathers = !p.slot_of_row.empty();
    return {.grad_y = p.grad_y.data(),
            .weight = gathers ? p.weight.data() : nullptr,
            .slot_of_row = gathers ? p.slot_of_row.data() : nullptr,
            .hidden = kept,
            .grad_rows = {grad_rows.data(), accumulate},
            .grad_weight = {grad_weight.data(), accumulate}};
  }
  [[nodiscard]] bool same_bits(const Results& other) const {
    return y.same_bits(other.y) && grad_rows.same_bits(other.grad_rows) &&
           grad_weight.same_bits(other.grad_weight) && grad_gate.same_bits(other.grad_gate) &&
           grad_up.same_bits(other.grad_up) && hidden.same_bits(other.hidden);
  }
  [[nodiscard]] ExpertsRows<T> rows() { return {grad_gate.data(), grad_up.data(), hidden.data()}; }
};

template <class T>
Results<T> run(const Problem<T>& p, bool accumulate) {
  Results<T> to(p, T(0.5));
  Array<T> gate(p.R * p.F), up(p.R * p.F);
  swiglu_experts<T>(p.shape(), p.weights(), p.x.data(), {gate.data(), up.data()}, to.y.data());
  swiglu_experts_backward<T>(p.shape(), p.weights(),
                             to.backward(p, {gate.data(), up.data()}, accumulate), to.rows());
  EXPECT_TRUE(gate.guards_intact() && up.guards_intact());
  return to;
}

TYPED_TEST(SwigluExperts, EqualsTheReferenceForwardAndBackward) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    const Problem<T> p(c);
    const Problem<double> exact(c);
    for (const bool accumulate : {false, true}) {
      const Results<T> found = run(p, accumulate);
      Results<double> wanted(exact, 0.5);
      reference::swiglu_experts<double>(exact.shape(), exact.weights(), exact.x.data(),
                                        wanted.y.data());
      reference::swiglu_experts_backward<double>(exact.shape(), exact.weights(), exact.x.data(),
                                                 wanted.backward(exact, {}, accumulate),
                                                 wanted.rows());
      expect_close(found.y, wanted.y, kCoefficient);
      expect_close(found.grad_rows, wanted.grad_rows, kCoefficient);
      expect_close(found.grad_weight, wanted.grad_weight, kCoefficient);
      expect_close(found.grad_gate, wanted.grad_gate, kCoefficient);
      expect_close(found.grad_up, wanted.grad_up, kCoefficient);
      expect_close(found.hidden, wanted.hidden, kCoefficient);
    }
  }
}

TYPED_TEST(SwigluExperts, MayWriteGradientsOverWhatTheForwardKept) {
  using T = TypeParam;
  const Problem<T> p({{0, 1, 17, 490, 500, 730}, 40, 70});
  ASSERT_TRUE(swiglu_experts_in_place(p.F));
  EXPECT_FALSE(swiglu_experts_in_place(1000));
  const Results<T> apart = run(p, false);
  Results<T> over(p, T(0));
  Array<T> gate(p.R * p.F), up(p.R * p.F);
  swiglu_experts<T>(p.shape(), p.weights(), p.x.data(), {gate.data(), up.data()}, over.y.data());
  swiglu_experts_backward<T>(p.shape(), p.weights(),
                             over.backward(p, {gate.data(), up.data()}, false),
                             {gate.data(), up.data(), over.hidden.data()});
  EXPECT_TRUE(gate.same_bits(apart.grad_gate));
  EXPECT_TRUE(up.same_bits(apart.grad_up));
  EXPECT_TRUE(over.hidden.same_bits(apart.hidden));
  EXPECT_TRUE(over.grad_rows.same_bits(apart.grad_rows));
}

TYPED_TEST(SwigluExperts, GivesTheSameBitsOnAnyNumberOfThreads) {
  using T = TypeParam;
  const Problem<T> p({{0, 1, 17, 490, 500, 730}, 40, 70});
  testing::expect_same_bits_on_any_threads([&] { return run(p, false); });
}

TYPED_TEST(SwigluExperts, GivesARowTheSameBitsWhateverItsNeighbours) {
  using T = TypeParam;
  const Problem<T> many({{0, 0, 301}, 33, 47, false});
  const Results<T> all = run(many, false);
  Problem<T> one({{0, 0, 1}, 33, 47, false});
  for (const int64_t row : {0, 13, 255, 256, 300}) {
    std::copy_n(many.x.data() + row * 33, 33, one.x.data());
    std::copy_n(many.grad_y.data() + row * 33, 33, one.grad_y.data());
    const Results<T> alone = run(one, false);
    for (int64_t d = 0; d < 33; ++d) {
      EXPECT_EQ(alone.y[d], all.y[row * 33 + d]);
      EXPECT_EQ(alone.grad_rows[d], all.grad_rows[row * 33 + d]);
    }
  }
}

TYPED_TEST(SwigluExperts, GivesTheSameBitsWhenNothingIsKept) {
  using T = TypeParam;
  std::vector<Case> all = cases();
  for (const bool gathers : {false, true}) {
    // As many rows as decoding has.
    all.insert(all.end(), {{{0, 1}, 33, 47, gathers},
                           {{0, 0, 8}, 530, 40, gathers},
                           {{0, 1, 1, 3}, 17, 600, gathers},
                           {{0, 2, 3, 8, 8}, 40, 33, gathers}});
  }
  for (const Case& c : all) {
    const Problem<T> p(c);
    const Results<T> kept = run(p, false);
    Array<T> y(p.R * p.D);
    swiglu_experts<T>(p.shape(), p.weights(), p.x.data(), {}, y.data());
    EXPECT_TRUE(y.same_bits(kept.y)) << p.R << " rows, " << p.D << " x " << p.F;
    EXPECT_TRUE(y.guards_intact());
  }
}

}  // namespace
}  // namespace sluice::kernels
