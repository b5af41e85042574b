#include "autograd/kernels/selective_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "autograd/kernels/reference/selective_scan.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_same_bits_on_any_threads;

template <class T>
class SelectiveScanKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(SelectiveScanKernel, FloatTypes);

/// Of the largest value.
template <class T>
constexpr double kTolerance = sizeof(T) == 4 ? 1e-5 : 1e-12;

template <class T>
double distance(const Array<T>& actual, const Array<double>& expected) {
  EXPECT_TRUE(actual.guards_intact());
  double worst = 0.0;
  double scale = 1.0;
  for (int64_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(static_cast<double>(actual[i]) - expected[i]);
    worst = std::isfinite(difference) ? std::max(worst, difference) : INFINITY;
    scale = std::max(scale, std::abs(expected[i]));
  }
  return worst / scale;
}

struct Case {
  SelectiveShape shape;
  std::vector<int64_t> documents;
  [[nodiscard]] int64_t tokens() const { return documents.back(); }
  [[nodiscard]] std::string name() const {
    std::string result = "E " + std::to_string(shape.E) + " N " + std::to_string(shape.N) + ":";
    for (const int64_t d : documents) result += " " + std::to_string(d);
    return result;
  }
};

std::vector<Case> cases() {
  std::vector<Case> result;
  // Lengths around a segment, alone and packed.
  for (const int64_t length : {1, 7, 63, 64, 65, 128, 300}) {
    result.push_back({{5, 4}, {0, length}});
    result.push_back({{5, 4}, {0, 3, 3 + length, 4 + length, 74 + length}});
  }
  // Channels around registers and blocks; several runs of documents.
  for (const int64_t E : {1, 8, 16, 17, 33, 64, 65, 130}) result.push_back({{E, 3}, {0, 20, 70}});
  result.push_back({{3, 16}, {0, 500, 513, 600, 1100, 1111}});
  result.push_back({{4, 1}, {0, 9}});
  result.push_back({{4, 2}, {0}});
  return result;
}

template <class T>
struct Arrays {
  explicit Arrays(const Case& c)
      : u(Array<T>::uniform(c.tokens() * c.shape.E, 1)),
        dt(Array<T>::uniform(c.tokens() * c.shape.E, 2, -4.0, 1.0)),
        dt_bias(Array<T>::uniform(c.shape.E, 3)),
        A_log(Array<T>::uniform(c.shape.E * c.shape.N, 4, -1.0, 2.0)),
        B(Array<T>::uniform(c.tokens() * c.shape.N, 5)),
        C(Array<T>::uniform(c.tokens() * c.shape.N, 6)),
        D(Array<T>::uniform(c.shape.E, 7)),
        grad_y(Array<T>::uniform(c.tokens() * c.shape.E, 8)) {}
  [[nodiscard]] SelectiveInputs<T> inputs(const Case& c, int64_t from = 0) const {
    return {u.data() + from * c.shape.E, dt.data() + from * c.shape.E, dt_bias.data(), A_log.data(),
            B.data() + from * c.shape.N, C.data() + from * c.shape.N,  D.data()};
  }
  Array<T> u, dt, dt_bias, A_log, B, C, D, grad_y;
};

template <class T>
struct Results {
  explicit Results(const Case& c, T start = T{0})
      : y(c.tokens() * c.shape.E),
        states(selective_states(c.documents) * c.shape.E * c.shape.N),
        last(c.shape.E * c.shape.N),
        workspace(selective_workspace<T>(c.shape, c.tokens())),
        u(y.size(), start),
        dt(y.size(), start),
        dt_bias(c.shape.E, start),
        A_log(last.size(), start),
        B(c.tokens() * c.shape.N, start),
        C(B.size(), start),
        D(c.shape.E, start) {}
  void scan(const Case& c, const Arrays<T>& a) {
    selective_scan<T>(c.shape, c.documents,
                      {a.inputs(c), y.data(), states.data(), nullptr, last.data()});
  }
  [[nodiscard]] SelectiveScanBackward<T> backward(const Case& c, const Arrays<T>& a,
                                                  bool accumulate) {
    return {.in = a.inputs(c),
            .states = states.data(),
            .workspace = workspace.data(),
            .grad_y = a.grad_y.data(),
            .grad_u = {u.data(), accumulate},
            .grad_dt = {dt.data(), accumulate},
            .grad_dt_bias = {dt_bias.data(), accumulate},
            .grad_A_log = {A_log.data(), accumulate},
            .grad_B = {B.data(), accumulate},
            .grad_C = {C.data(), accumulate},
            .grad_D = {D.data(), accumulate}};
  }
  Array<T> y, states, last, workspace;
  Array<T> u, dt, dt_bias, A_log, B, C, D;  // gradients
};

TYPED_TEST(SelectiveScanKernel, EqualsTheRecurrenceForwardAndBackward) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name());
    const Arrays<T> a(c);
    const Arrays<double> a64(c);
    Results<double> r64(c);
    reference::selective_scan<double>(
        c.shape, c.documents, {a64.inputs(c), r64.y.data(), nullptr, nullptr, r64.last.data()});
    reference::selective_scan_backward<double>(c.shape, c.documents, r64.backward(c, a64, true));
    for (const bool accumulate : {false, true}) {
      Results<T> r(c, T(0.5));
      r.scan(c, a);
      EXPECT_LE(distance(r.y, r64.y), kTolerance<T>);
      if (c.tokens() > 0) {
        EXPECT_LE(distance(r.last, r64.last), kTolerance<T>);
      }
      selective_scan_backward<T>(c.shape, c.documents, r.backward(c, a, accumulate));
      const auto expect = [&](const char* name, Array<T> actual, const Array<double>& expected) {
        for (int64_t i = 0; accumulate && i < actual.size(); ++i) actual[i] -= T(0.5);
        EXPECT_LE(distance(actual, expected), 4 * kTolerance<T>) << name;
      };
      expect("u", r.u, r64.u);
      expect("dt", r.dt, r64.dt);
      expect("dt_bias", r.dt_bias, r64.dt_bias);
      expect("A_log", r.A_log, r64.A_log);
      expect("B", r.B, r64.B);
      expect("C", r.C, r64.C);
      expect("D", r.D, r64.D);
    }
  }
}

TYPED_TEST(SelectiveScanKernel, OfAPackedDocumentEqualsThatOfTheDocumentAloneBitForBit) {
  using T = TypeParam;
  const Case packed{{21, 5}, {0, 3, 90, 91, 300}};
  const Arrays<T> a(packed);
  Results<T> r(packed);
  r.scan(packed, a);
  selective_scan_backward<T>(packed.shape, packed.documents, r.backward(packed, a, false));
  for (size_t d = 0; d + 1 < packed.documents.size(); ++d) {
    const int64_t from = packed.documents[d];
    const Case alone{packed.shape, {0, packed.documents[d + 1] - from}};
    Results<T> own(alone);
    selective_scan<T>(alone.shape, alone.documents,
                      {a.inputs(alone, from), own.y.data(), own.states.data()});
    SelectiveScanBackward<T> args = own.backward(alone, a, false);
    args.in = a.inputs(alone, from);
    args.grad_y += from * 21;
    selective_scan_backward<T>(alone.shape, alone.documents, args);
    for (int64_t i = 0; i < own.y.size(); ++i) {
      ASSERT_EQ(own.y[i], r.y[from * 21 + i]);
      ASSERT_EQ(own.u[i], r.u[from * 21 + i]);
      ASSERT_EQ(own.dt[i], r.dt[from * 21 + i]);
    }
    for (int64_t i = 0; i < own.B.size(); ++i) ASSERT_EQ(own.B[i], r.B[from * 5 + i]);
  }
}

TYPED_TEST(SelectiveScanKernel, GoesOnFromItsStateBitForBit) {
  using T = TypeParam;
  const Case full{{19, 4}, {0, 150}};
  const Arrays<T> a(full);
  Results<T> r(full);
  r.scan(full, a);
  for (const int64_t piece : {1, 64, 77}) {
    Array<T> y(r.y.size()), state(r.last.size());
    for (int64_t t = 0; t < full.tokens(); t += piece) {
      const std::vector<int64_t> documents = {0, std::min(piece, full.tokens() - t)};
      selective_scan<T>(
          full.shape, documents,
          {a.inputs(full, t), y.data() + t * 19, nullptr, state.data(), state.data()});
    }
    EXPECT_TRUE(y.same_bits(r.y)) << piece;
    EXPECT_TRUE(state.same_bits(r.last)) << piece;
  }
}

TYPED_TEST(SelectiveScanKernel, WithOneStateAndNoDecayIsASumOverTheTokens) {
  // A = -1e-30 leaves everything: h_t = sum over s <= t of d_s B_s u_s.
  using T = TypeParam;
  const Case c{{1, 1}, {0, 4}};
  Arrays<T> a(c);
  a.A_log[0] = T(-69);
  Results<T> r(c);
  r.scan(c, a);
  double h = 0.0;
  for (int64_t t = 0; t < 4; ++t) {
    const double d =
        std::log1p(std::exp(static_cast<double>(a.dt[t]) + static_cast<double>(a.dt_bias[0])));
    h += d * static_cast<double>(a.B[t]) * static_cast<double>(a.u[t]);
    EXPECT_NEAR(
        static_cast<double>(r.y[t]),
        static_cast<double>(a.C[t]) * h + static_cast<double>(a.D[0]) * static_cast<double>(a.u[t]),
        kTolerance<T>);
  }
}

TYPED_TEST(SelectiveScanKernel, GivesTheSameBitsOnAnyThreads) {
  using T = TypeParam;
  const Case c{{100, 4}, {0, 20, 600, 630, 700}};
  const Arrays<T> a(c);
  expect_same_bits_on_any_threads([&] {
    Results<T> r(c);
    r.scan(c, a);
    selective_scan_backward<T>(c.shape, c.documents, r.backward(c, a, false));
    Array<T> all(3 * r.y.size() + r.A_log.size() + 2 * r.B.size());
    T* to = all.data();
    for (const Array<T>* each : {&r.y, &r.u, &r.dt, &r.A_log, &r.B, &r.C}) {
      to = std::copy_n(each->data(), each->size(), to);
    }
    return all;
  });
}

}  // namespace
}  // namespace sluice::kernels
