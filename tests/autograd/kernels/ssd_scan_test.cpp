#include "autograd/kernels/ssd_scan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "autograd/kernels/reference/ssd_scan.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_same_bits_on_any_threads;

constexpr double kNoLimit = std::numeric_limits<double>::infinity();

template <class T>
class SsdScanKernel : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(SsdScanKernel, FloatTypes);

/// What a scan in chunks may differ from the recurrence, of the largest value: 1e-5 in f32, 1e-12 in
/// f64. Gradients are sums over up to hundreds of tokens of such values.
template <class T>
constexpr double kTolerance = sizeof(T) == 4 ? 1e-5 : 1e-12;
template <class T>
constexpr double kGradTolerance = 4 * kTolerance<T>;

/// Largest difference in units of the largest value, or of 1.
template <class T>
double distance(const Array<T>& actual, const Array<double>& expected) {
  EXPECT_TRUE(actual.guards_intact());
  double worst = 0.0;
  double scale = 1.0;
  for (int64_t i = 0; i < expected.size(); ++i) {
    const double difference = std::abs(static_cast<double>(actual[i]) - expected[i]);
    worst = std::isfinite(difference) ? std::max(worst, difference) : kNoLimit;
    scale = std::max(scale, std::abs(expected[i]));
  }
  return worst / scale;
}

struct Case {
  SsdShape shape;
  std::vector<int64_t> documents;
  [[nodiscard]] int64_t tokens() const { return documents.back(); }
  [[nodiscard]] int64_t width() const { return shape.H * shape.P + 2 * shape.G * shape.N; }
  [[nodiscard]] int64_t state() const { return shape.H * shape.P * shape.N; }
  [[nodiscard]] std::string name() const {
    std::string result = "H " + std::to_string(shape.H) + " P " + std::to_string(shape.P) + " N " +
                         std::to_string(shape.N) + " chunk " + std::to_string(shape.chunk) +
                         " documents";
    for (const int64_t d : documents) result += " " + std::to_string(d);
    return result;
  }
};

SsdShape shape_of(int64_t H, int64_t P, int64_t G, int64_t N, int64_t chunk) {
  return {H, P, G, N, chunk, 0.0, kNoLimit};
}

std::vector<Case> cases() {
  std::vector<Case> result;
  // Lengths around a chunk, alone and packed.
  constexpr int64_t kChunk = 32;
  for (const int64_t length :
       {int64_t{1}, int64_t{7}, kChunk - 1, kChunk, kChunk + 1, 3 * kChunk, 5 * kChunk + 9}) {
    result.push_back({shape_of(2, 8, 1, 16, kChunk), {0, length}});
    result.push_back({shape_of(2, 8, 1, 16, kChunk), {0, 5, 5 + length, 6 + length}});
  }
  // The same tokens in any chunks.
  for (const int64_t chunk : {1, 7, 16, 64, 300, 1000}) {
    result.push_back({shape_of(3, 5, 1, 9, chunk), {0, 300}});
    result.push_back({shape_of(2, 3, 1, 4, chunk), {0, 1, 4, 4, 36, 100, 101, 300}});
  }
  // Widths around registers and tiles; groups; limits that clamp.
  result.push_back({shape_of(4, 64, 2, 33, 64), {0, 150}});
  result.push_back({shape_of(6, 17, 3, 1, 40), {0, 90, 130}});
  result.push_back({shape_of(1, 1, 1, 1, 8), {0, 21}});
  result.push_back({shape_of(8, 33, 1, 64, 96), {0, 250}});
  result.push_back({{2, 4, 1, 5, 16, 0.3, 0.8}, {0, 50}});
  result.push_back({shape_of(2, 4, 1, 5, 16), {0}});
  return result;
}

template <class T>
struct Arrays {
  explicit Arrays(const Case& c)
      : xbc(Array<T>::uniform(c.tokens() * c.width(), 1)),
        dt(Array<T>::uniform(c.tokens() * c.shape.H, 2, -3.0, 1.0)),
        dt_bias(Array<T>::uniform(c.shape.H, 3)),
        A_log(Array<T>::uniform(c.shape.H, 4, -2.0, 1.0)),
        D(Array<T>::uniform(c.shape.H, 5)),
        grad_y(Array<T>::uniform(c.tokens() * c.shape.H * c.shape.P, 6)) {}
  explicit Arrays(const Arrays<float>& other) requires std::is_same_v<T, double>
      : xbc(other.xbc.in_double()),
        dt(other.dt.in_double()),
        dt_bias(other.dt_bias.in_double()),
        A_log(other.A_log.in_double()),
        D(other.D.in_double()),
        grad_y(other.grad_y.in_double()) {}

  [[nodiscard]] SsdInputs<T> inputs(const Case& c, int64_t from = 0) const {
    const T* x = xbc.data() + from * c.width();
    const T* B = x + c.shape.H * c.shape.P;
    return {x, B, B + c.shape.G * c.shape.N, c.width(), A_log.data(), D.data()};
  }
  [[nodiscard]] SsdScan<T> scan(const Case& c, T* y, T* delta, T* states, int64_t from = 0) const {
    return {.in = inputs(c, from),
            .dt = dt.data() + from * c.shape.H,
            .dt_bias = dt_bias.data(),
            .y = y,
            .delta = delta,
            .states = states};
  }

  Array<T> xbc, dt, dt_bias, A_log, D, grad_y;
};

template <class T>
struct Results {
  explicit Results(const Case& c)
      : y(c.tokens() * c.shape.H * c.shape.P),
        delta(c.tokens() * c.shape.H),
        states(ssd_states(c.shape, c.documents) * c.state()),
        grad_states(states.size()),
        last(c.state()) {}
  Array<T> y, delta, states, grad_states, last;
};

template <class T>
struct Gradients {
  explicit Gradients(const Case& c, T start = T{0})
      : xbc(c.tokens() * c.width(), start),
        dt(c.tokens() * c.shape.H, start),
        dt_bias(c.shape.H, start),
        A_log(c.shape.H, start),
        D(c.shape.H, start) {}
  Array<T> xbc, dt, dt_bias, A_log, D;
};

template <class T>
SsdScanBackward<T> backward(const Case& c, const Arrays<T>& a, Results<T>& r, Gradients<T>& g,
                            bool accumulate) {
  T* x = g.xbc.data();
  T* B = x + c.shape.H * c.shape.P;
  return {.in = a.inputs(c),
          .delta = r.delta.data(),
          .states = r.states.data(),
          .grad_states = r.grad_states.data(),
          .grad_y = a.grad_y.data(),
          .grad_x = {x, accumulate},
          .grad_B = {B, accumulate},
          .grad_C = {B + c.shape.G * c.shape.N, accumulate},
          .grad_dt = {g.dt.data(), accumulate},
          .grad_dt_bias = {g.dt_bias.data(), accumulate},
          .grad_A_log = {g.A_log.data(), accumulate},
          .grad_D = {g.D.data(), accumulate}};
}

TYPED_TEST(SsdScanKernel, EqualsTheRecurrenceForwardAndBackward) {
  using T = TypeParam;
  for (const Case& c : cases()) {
    SCOPED_TRACE(c.name());
    const Arrays<float> numbers(c);
    const Arrays<double> a64(numbers);
    const Arrays<T> a(c);
    Results<T> r(c);
    Results<double> r64(c);
    SsdScan<T> scan = a.scan(c, r.y.data(), r.delta.data(), r.states.data());
    scan.last = r.last.data();
    ssd_scan<T>(c.shape, c.documents, scan);
    SsdScan<double> scan64 = a64.scan(c, r64.y.data(), r64.delta.data(), nullptr);
    scan64.last = r64.last.data();
    reference::ssd_scan<double>(c.shape, c.documents, scan64);
    EXPECT_LE(distance(r.y, r64.y), kTolerance<T>);
    EXPECT_LE(distance(r.delta, r64.delta), kTolerance<T>);
    if (c.tokens() > 0) {
      EXPECT_LE(distance(r.last, r64.last), kTolerance<T>);
    }

    Gradients<double> g64(c);
    reference::ssd_scan_backward<double>(c.shape, c.documents, backward(c, a64, r64, g64, true));
    for (const bool accumulate : {false, true}) {
      Gradients<T> g(c, T(0.5));
      ssd_scan_backward<T>(c.shape, c.documents, backward(c, a, r, g, accumulate));
      const auto expect = [&](const char* name, Array<T> actual, const Array<double>& expected) {
        for (int64_t i = 0; accumulate && i < actual.size(); ++i) actual[i] -= T(0.5);
        EXPECT_LE(distance(actual, expected), kGradTolerance<T>) << name;
      };
      expect("xbc", g.xbc, g64.xbc);
      expect("dt", g.dt, g64.dt);
      expect("dt_bias", g.dt_bias, g64.dt_bias);
      expect("A_log", g.A_log, g64.A_log);
      expect("D", g.D, g64.D);
    }
  }
}

TYPED_TEST(SsdScanKernel, OfAPackedDocumentEqualsThatOfTheDocumentAloneBitForBit) {
  using T = TypeParam;
  const Case packed{shape_of(2, 6, 1, 10, 16), {0, 5, 38, 39, 100}};
  const Arrays<T> a(packed);
  Results<T> r(packed);
  ssd_scan<T>(packed.shape, packed.documents,
              a.scan(packed, r.y.data(), r.delta.data(), r.states.data()));
  Gradients<T> g(packed);
  ssd_scan_backward<T>(packed.shape, packed.documents, backward(packed, a, r, g, false));
  for (size_t d = 0; d + 1 < packed.documents.size(); ++d) {
    const int64_t from = packed.documents[d];
    const Case alone{packed.shape, {0, packed.documents[d + 1] - from}};
    Results<T> own(alone);
    ssd_scan<T>(alone.shape, alone.documents,
                a.scan(alone, own.y.data(), own.delta.data(), own.states.data(), from));
    for (int64_t i = 0; i < own.y.size(); ++i) ASSERT_EQ(own.y[i], r.y[from * 12 + i]);
    Gradients<T> own_g(alone);
    SsdScanBackward<T> args = backward(alone, a, own, own_g, false);
    args.in = a.inputs(alone, from);
    args.grad_y += from * 12;
    ssd_scan_backward<T>(alone.shape, alone.documents, args);
    for (int64_t i = 0; i < own_g.xbc.size(); ++i) {
      ASSERT_EQ(own_g.xbc[i], g.xbc[from * packed.width() + i]);
    }
    for (int64_t i = 0; i < own_g.dt.size(); ++i) ASSERT_EQ(own_g.dt[i], g.dt[from * 2 + i]);
  }
}

TYPED_TEST(SsdScanKernel, DoesNotSeeLaterTokens) {
  using T = TypeParam;
  const Case c{shape_of(2, 6, 1, 10, 16), {0, 60}};
  Arrays<T> a(c);
  Results<T> before(c), after(c);
  ssd_scan<T>(c.shape, c.documents,
              a.scan(c, before.y.data(), before.delta.data(), before.states.data()));
  constexpr int64_t kChanged = 37;
  for (int64_t i = 0; i < c.width(); ++i) a.xbc[kChanged * c.width() + i] += T(0.5);
  a.dt[kChanged * 2] += T(0.5);
  ssd_scan<T>(c.shape, c.documents,
              a.scan(c, after.y.data(), after.delta.data(), after.states.data()));
  for (int64_t i = 0; i < kChanged * 12; ++i) ASSERT_EQ(before.y[i], after.y[i]);
  for (int64_t t = kChanged; t < 60; ++t) ASSERT_NE(before.y[t * 12], after.y[t * 12]) << t;
}

TYPED_TEST(SsdScanKernel, GoesOnFromItsStateAtAnySplit) {
  using T = TypeParam;
  const Case full{shape_of(4, 5, 2, 12, 16), {0, 70}};
  const int64_t token = full.shape.H * full.shape.P;
  const Arrays<T> a(full);
  Results<T> r(full);
  SsdScan<T> scan = a.scan(full, r.y.data(), r.delta.data(), r.states.data());
  scan.last = r.last.data();
  ssd_scan<T>(full.shape, full.documents, scan);
  const auto y64 = r.y.in_double();
  const auto last64 = r.last.in_double();
  for (const int64_t piece : {1, 3, 16, 33, 69}) {
    SCOPED_TRACE(piece);
    Array<T> y(r.y.size()), stepped(r.y.size()), state(full.state()), step_state(full.state());
    for (int64_t t = 0; t < full.tokens(); t += piece) {
      const Case part{full.shape, {0, std::min(piece, full.tokens() - t)}};
      Results<T> own(part);
      SsdScan<T> args = a.scan(part, y.data() + t * token, own.delta.data(), own.states.data(), t);
      args.initial = state.data();
      args.last = own.last.data();
      ssd_scan<T>(part.shape, part.documents, args);
      std::copy_n(own.last.data(), state.size(), state.data());
      ssd_step<T>(part.shape, part.tokens(),
                  a.scan(part, stepped.data() + t * token, nullptr, nullptr, t), step_state.data());
    }
    EXPECT_LE(distance(y, y64), kTolerance<T>);
    EXPECT_LE(distance(state, last64), kTolerance<T>);
    EXPECT_LE(distance(stepped, y64), kTolerance<T>);
    EXPECT_LE(distance(step_state, last64), kTolerance<T>);
  }
}

TYPED_TEST(SsdScanKernel, WithOneGroupPerHeadEqualsOneGroupWithRepeatedMatrices) {
  using T = TypeParam;
  const Case grouped{shape_of(4, 3, 2, 5, 8), {0, 30}};
  const Case repeated{shape_of(4, 3, 4, 5, 8), {0, 30}};
  const Arrays<T> a(grouped);
  Arrays<T> b(repeated);
  for (int64_t t = 0; t < 30; ++t) {
    const T* from = a.xbc.data() + t * grouped.width();
    T* to = b.xbc.data() + t * repeated.width();
    std::copy_n(from, 12, to);
    for (int64_t part = 0; part < 2; ++part) {
      for (int64_t h = 0; h < 4; ++h) {
        std::copy_n(from + 12 + part * 10 + h / 2 * 5, 5, to + 12 + part * 20 + h * 5);
      }
    }
  }
  Results<T> one(grouped), other(repeated);
  ssd_scan<T>(grouped.shape, grouped.documents,
              a.scan(grouped, one.y.data(), one.delta.data(), one.states.data()));
  ssd_scan<T>(repeated.shape, repeated.documents,
              b.scan(repeated, other.y.data(), other.delta.data(), other.states.data()));
  EXPECT_TRUE(one.y.same_bits(other.y));
}

TYPED_TEST(SsdScanKernel, GivesTheSameBitsOnAnyThreadsAndHoweverTheWorkIsCut) {
  using T = TypeParam;
  // One head of one document leaves the chunks to the threads; many documents do not.
  for (const Case& c : {Case{shape_of(1, 4, 1, 6, 16), {0, 100}},
                        Case{shape_of(2, 4, 1, 6, 16), {0, 20, 30, 60, 90, 140}}}) {
    const Arrays<T> a(c);
    expect_same_bits_on_any_threads([&] {
      Results<T> r(c);
      ssd_scan<T>(c.shape, c.documents, a.scan(c, r.y.data(), r.delta.data(), r.states.data()));
      Gradients<T> g(c);
      ssd_scan_backward<T>(c.shape, c.documents, backward(c, a, r, g, false));
      Array<T> all(r.y.size() + g.xbc.size() + g.dt.size() + 3 * c.shape.H);
      T* to = all.data();
      for (const Array<T>* each : {&r.y, &g.xbc, &g.dt, &g.dt_bias, &g.A_log, &g.D}) {
        to = std::copy_n(each->data(), each->size(), to);
      }
      return all;
    });
  }
}

TEST(SsdScanNumbers, AreThoseOfTheMethodNotes) {
  const Case c{shape_of(1, 1, 1, 1, 8), {0, 3}};
  // softplus(log(e^d - 1)) = d
  const auto raw = [](double d) { return std::log(std::expm1(d)); };
  const std::vector<double> xbc = {1, 1, 1, 2, 1, -1, 3, 2, 0.5};
  const std::vector<double> dt = {raw(0.5), raw(0.5), raw(1.0)};
  const double zero = 0.0;
  Results<double> r(c);
  ssd_scan<double>(c.shape, c.documents,
                   {.in = {xbc.data(), xbc.data() + 1, xbc.data() + 2, 3, &zero, &zero},
                    .dt = dt.data(),
                    .dt_bias = &zero,
                    .y = r.y.data(),
                    .delta = r.delta.data(),
                    .states = nullptr,
                    .last = r.last.data()});
  EXPECT_NEAR(r.y[0], 0.5, 1e-12);
  EXPECT_NEAR(r.y[1], -1.303265, 5e-7);
  EXPECT_NEAR(r.y[2], 3.239722, 5e-7);
  EXPECT_NEAR(r.last[0], 6.479445, 1e-6);
}

TEST(SsdScanPrecision, HoldsWhenTheLogDecaysOfAChunkAddUpToThousands) {
  // g runs to -4000 in a chunk of 256: the decays between neighbours must not lose digits to it.
  Case c{shape_of(1, 4, 1, 4, 256), {0, 256}};
  Arrays<float> a(c);
  for (int64_t i = 0; i < a.dt.size(); ++i) a.dt[i] = 1.0F;
  a.dt_bias[0] = 0.0F;
  a.A_log[0] = 2.5F;
  const Arrays<double> a64(a);
  Results<float> r(c);
  Results<double> r64(c);
  ssd_scan<float>(c.shape, c.documents, a.scan(c, r.y.data(), r.delta.data(), r.states.data()));
  reference::ssd_scan<double>(c.shape, c.documents,
                              a64.scan(c, r64.y.data(), r64.delta.data(), nullptr));
  EXPECT_LE(distance(r.y, r64.y), 1e-6);
}

}  // namespace
}  // namespace sluice::kernels
