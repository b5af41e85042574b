#include "autograd/kernels/gru_scan.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/kernels/reference/gru_scan.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;

struct Rows {
  std::vector<int32_t> experts;   // [E + 1]
  std::vector<int64_t> segments;  // [G + 1]
};

/// No row; one; a whole expert without rows, and segments of any lengths; more segments than go side by
/// side.
std::vector<Rows> row_sets() {
  Rows many{{0, 60, 60, 75}, {}};
  for (int64_t row = 0; row <= 60; row += 3) many.segments.push_back(row);
  many.segments.insert(many.segments.end(), {61, 75});
  return {{{0, 0}, {0}}, {{0, 1}, {0, 1}}, {{0, 9, 9, 20}, {0, 1, 1, 8, 9, 13, 20, 20}}, many};
}

template <class T>
struct Problem {
  Problem(const Rows& rows_, int64_t P)
      : rows(rows_),
        shape{std::ssize(rows.experts) - 1, P},
        R(rows.experts.back()),
        a(Array<T>::uniform(R * 3 * P, 1, -2.0, 2.0)),
        weight(Array<T>::uniform(shape.E * 3 * P * P, 2, -0.5, 0.5)),
        bias(Array<T>::uniform(shape.E * 4 * P, 3)),
        grad_h(Array<T>::uniform(R * P, 4)) {}
  [[nodiscard]] GruInputs<T> inputs() const {
    return {a.data(), weight.data(), bias.data(), rows.experts.data()};
  }
  [[nodiscard]] Problem<double> in_double() const {
    Problem<double> exact(rows, shape.P);
    exact.a = a.in_double();
    exact.weight = weight.in_double();
    exact.bias = bias.in_double();
    exact.grad_h = grad_h.in_double();
    return exact;
  }
  Rows rows;
  GruShape shape;
  int64_t R;
  Array<T> a, weight, bias, grad_h;
};

template <class T>
struct Results {
  Results(const Problem<T>& p, bool accumulate_)
      : accumulate(accumulate_),
        h(p.R * p.shape.P),
        gates(p.R * 4 * p.shape.P),
        workspace(gru_workspace(p.shape, p.R)),
        grad_a(p.a.size(), T(0.5)),
        grad_weight(p.weight.size(), T(0.5)),
        grad_bias(p.bias.size(), T(0.5)) {}
  [[nodiscard]] GruScan<T> forward(const Problem<T>& p) {
    return {.in = p.inputs(), .h = h.data(), .gates = gates.data()};
  }
  [[nodiscard]] GruScanBackward<T> backward(const Problem<T>& p) {
    return {.in = p.inputs(),
            .h = h.data(),
            .gates = gates.data(),
            .workspace = workspace.data(),
            .grad_h = p.grad_h.data(),
            .grad_a = {grad_a.data(), accumulate},
            .grad_weight = {grad_weight.data(), accumulate},
            .grad_bias = {grad_bias.data(), accumulate}};
  }
  bool accumulate;
  Array<T> h, gates, workspace, grad_a, grad_weight, grad_bias;
};

template <class T>
class GruScanKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(GruScanKernel, FloatTypes);

TYPED_TEST(GruScanKernel, EqualsTheReference) {
  using T = TypeParam;
  for (const Rows& rows : row_sets()) {
    for (const int64_t P : {1, 5, 16, 33}) {
      for (const bool accumulate : {false, true}) {
        const Problem<T> p(rows, P);
        Results<T> fast(p, accumulate);
        gru_scan<T>(p.shape, rows.segments, fast.forward(p));
        gru_scan_backward<T>(p.shape, rows.segments, fast.backward(p));
        const Problem<double> exact = p.in_double();
        Results<double> expected(exact, accumulate);
        reference::gru_scan<double>(p.shape, rows.segments, expected.forward(exact));
        reference::gru_scan_backward<double>(p.shape, rows.segments, expected.backward(exact));
        // Chains of up to 14 states of sums of P products, each state contracting.
        const double coefficient = 40.0 * static_cast<double>(P + 8);
        expect_close(fast.h, expected.h, coefficient);
        expect_close(fast.gates, expected.gates, coefficient);
        expect_close(fast.grad_a, expected.grad_a, coefficient);
        expect_close(fast.grad_weight, expected.grad_weight, coefficient);
        expect_close(fast.grad_bias, expected.grad_bias, coefficient);
        EXPECT_TRUE(fast.workspace.guards_intact());
      }
    }
  }
}

TYPED_TEST(GruScanKernel, IsTheCellOfThePage) {
  using T = TypeParam;
  // P = 1: r = sigmoid(1), u = sigmoid(0), c = tanh(0.5 + r (2 h + 1)).
  const Array<T> a = Array<T>::of({T(1), T(0), T(0.5), T(1), T(0), T(0.5)});
  const Array<T> weight = Array<T>::of({T(0), T(0), T(2)});
  const Array<T> bias = Array<T>::of({T(0), T(0), T(0), T(1)});
  const std::vector<int32_t> experts{0, 2};
  const std::vector<int64_t> segments{0, 2};
  Array<T> h(2);
  gru_scan<T>({1, 1}, segments,
              {.in = {a.data(), weight.data(), bias.data(), experts.data()},
               .h = h.data(),
               .gates = nullptr});
  const double r = 1.0 / (1.0 + std::exp(-1.0));
  const double first = 0.5 * std::tanh(0.5 + r);
  const double second = 0.5 * std::tanh(0.5 + r * (2.0 * first + 1.0)) + 0.5 * first;
  EXPECT_NEAR(static_cast<double>(h[0]), first, 1e-6);
  EXPECT_NEAR(static_cast<double>(h[1]), second, 1e-6);
}

TYPED_TEST(GruScanKernel, GivesARowTheBitsThatItsSegmentHasAlone) {
  using T = TypeParam;
  const Rows rows = row_sets().back();
  const int64_t P = 20;
  const Problem<T> p(rows, P);
  Results<T> together(p, false);
  gru_scan<T>(p.shape, rows.segments, together.forward(p));
  for (size_t g = 0; g + 1 < rows.segments.size(); ++g) {
    const int64_t begin = rows.segments[g];
    const int64_t count = rows.segments[g + 1] - begin;
    const int64_t e = begin < 60 ? 0 : 2;
    const std::vector<int32_t> experts{0, static_cast<int32_t>(count)};
    const std::vector<int64_t> segments{0, count};
    Array<T> h(count * P);
    gru_scan<T>({1, P}, segments,
                {.in = {p.a.data() + begin * 3 * P, p.weight.data() + e * 3 * P * P,
                        p.bias.data() + e * 4 * P, experts.data()},
                 .h = h.data(),
                 .gates = nullptr});
    for (int64_t i = 0; i < count * P; ++i) ASSERT_EQ(h[i], together.h[begin * P + i]) << g;
  }
}

TYPED_TEST(GruScanKernel, GoesOnWhereAnEarlierCallLeftIt) {
  using T = TypeParam;
  const int64_t P = 12;
  const Rows rows{{0, 9, 9, 20}, {0, 9, 20}};
  const Problem<T> p(rows, P);
  Results<T> whole(p, false);
  gru_scan<T>(p.shape, rows.segments, whole.forward(p));
  Array<T> state(3 * P);
  for (const bool second : {false, true}) {
    // The first 4 rows of expert 0 and 5 of expert 2, then the others.
    Problem<T> part({second ? std::vector<int32_t>{0, 5, 5, 11} : std::vector<int32_t>{0, 4, 4, 9},
                     second ? std::vector<int64_t>{0, 5, 11} : std::vector<int64_t>{0, 4, 9}},
                    P);
    const int64_t of_first = part.rows.experts[1];
    const auto source = [&](int64_t row) {
      return row < of_first ? (second ? 4 : 0) + row : 9 + (second ? 5 : 0) + row - of_first;
    };
    for (int64_t row = 0; row < part.R; ++row) {
      for (int64_t i = 0; i < 3 * P; ++i) part.a[row * 3 * P + i] = p.a[source(row) * 3 * P + i];
    }
    Array<T> h(part.R * P);
    gru_scan<T>(part.shape, part.rows.segments,
                {.in = part.inputs(),
                 .h = h.data(),
                 .gates = nullptr,
                 .initial = state.data(),
                 .last = state.data()});
    for (int64_t row = 0; row < part.R; ++row) {
      for (int64_t i = 0; i < P; ++i) ASSERT_EQ(h[row * P + i], whole.h[source(row) * P + i]);
    }
  }
  for (int64_t i = 0; i < P; ++i) EXPECT_EQ(state[P + i], T{0});  // nobody came to expert 1
}

TYPED_TEST(GruScanKernel, GivesTheSameBitsOnAnyNumberOfThreads) {
  using T = TypeParam;
  const Rows rows = row_sets().back();
  const Problem<T> p(rows, 24);
  expect_same_bits_on_any_threads([&] {
    Results<T> results(p, false);
    gru_scan<T>(p.shape, rows.segments, results.forward(p));
    gru_scan_backward<T>(p.shape, rows.segments, results.backward(p));
    Array<T> all(results.h.size() + results.grad_a.size() + results.grad_weight.size() +
                 results.grad_bias.size());
    int64_t at = 0;
    for (const Array<T>* part :
         {&results.h, &results.grad_a, &results.grad_weight, &results.grad_bias}) {
      for (int64_t i = 0; i < part->size(); ++i) all[at++] = (*part)[i];
    }
    return all;
  });
}

}  // namespace
}  // namespace sluice::kernels
