#include "autograd/kernels/factored_mix.h"

#include <gtest/gtest.h>

#include "autograd/kernels/reference/factored_mix.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_close;
using testing::expect_same_bits_on_any_threads;

/// Two of three weights are 0.
template <class T>
Array<T> sparse(int64_t size, uint64_t seed) {
  Array<T> result = Array<T>::uniform(size, seed);
  for (int64_t i = 0; i < size; ++i) {
    if (uniform_below({.seed = seed}, 1, static_cast<uint64_t>(i), 3) != 0) result[i] = T{0};
  }
  return result;
}

template <class T>
struct Problem {
  explicit Problem(const MixShape& shape)
      : s(shape),
        from(sparse<T>(s.N * s.H * s.n, 1)),
        to(sparse<T>(s.N * s.H * s.n, 2)),
        a(Array<T>::uniform(s.N * s.n * s.m, 3)),
        grad_z(Array<T>::uniform(s.N * s.n * s.m, 4)) {}
  [[nodiscard]] MixInputs<T> inputs() const { return {from.data(), to.data(), a.data()}; }
  MixShape s;
  Array<T> from, to, a, grad_z;
};

template <class T>
struct Results {
  Results(const MixShape& s, bool accumulate_)
      : accumulate(accumulate_),
        z(s.N * s.n * s.m),
        grad_from(s.N * s.H * s.n, T(0.5)),
        grad_to(s.N * s.H * s.n, T(0.5)),
        grad_a(s.N * s.n * s.m, T(0.5)) {}
  [[nodiscard]] FactoredMixBackward<T> backward(const MixInputs<T>& in, const T* grad_z) {
    return {in,
            grad_z,
            {grad_from.data(), accumulate},
            {grad_to.data(), accumulate},
            {grad_a.data(), accumulate}};
  }
  bool accumulate;
  Array<T> z, grad_from, grad_to, grad_a;
};

constexpr MixShape kShapes[] = {{0, 2, 4, 3}, {1, 1, 1, 1}, {5, 3, 7, 9}, {40, 2, 33, 8}};

template <class T>
class FactoredMix : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(FactoredMix, FloatTypes);

TYPED_TEST(FactoredMix, EqualsTheSumOverAllPairs) {
  using T = TypeParam;
  for (const MixShape& s : kShapes) {
    for (const bool accumulate : {false, true}) {
      const Problem<T> p(s);
      Results<T> fast(s, accumulate);
      factored_mix<T>(s, p.inputs(), fast.z.data());
      factored_mix_backward<T>(s, fast.backward(p.inputs(), p.grad_z.data()));
      const Array<double> from = p.from.in_double();
      const Array<double> to = p.to.in_double();
      const Array<double> a = p.a.in_double();
      const Array<double> grad_z = p.grad_z.in_double();
      const MixInputs<double> in{from.data(), to.data(), a.data()};
      Results<double> expected(s, accumulate);
      reference::factored_mix<double>(s, in, expected.z.data());
      reference::factored_mix_backward<double>(s, expected.backward(in, grad_z.data()));
      // Sums of up to n H + n m products of numbers below 1.
      const double coefficient = 4.0 * static_cast<double>(s.n);
      expect_close(fast.z, expected.z, coefficient);
      expect_close(fast.grad_from, expected.grad_from, coefficient);
      expect_close(fast.grad_to, expected.grad_to, coefficient);
      expect_close(fast.grad_a, expected.grad_a, coefficient);
    }
  }
}

TYPED_TEST(FactoredMix, GivesTheSameBitsOnAnyNumberOfThreads) {
  using T = TypeParam;
  const MixShape s{200, 4, 64, 8};
  const Problem<T> p(s);
  expect_same_bits_on_any_threads([&] {
    Results<T> results(s, false);
    factored_mix<T>(s, p.inputs(), results.z.data());
    factored_mix_backward<T>(s, results.backward(p.inputs(), p.grad_z.data()));
    Array<T> all(2 * results.z.size() + 2 * results.grad_to.size());
    int64_t at = 0;
    for (const Array<T>* part :
         {&results.z, &results.grad_a, &results.grad_from, &results.grad_to}) {
      for (int64_t i = 0; i < part->size(); ++i) all[at++] = (*part)[i];
    }
    return all;
  });
}

TYPED_TEST(FactoredMix, LeavesOutGradientsThatNobodyWants) {
  using T = TypeParam;
  const MixShape s{3, 2, 5, 4};
  const Problem<T> p(s);
  Results<T> all(s, false);
  factored_mix_backward<T>(s, all.backward(p.inputs(), p.grad_z.data()));
  Results<T> one(s, false);
  factored_mix_backward<T>(s, {p.inputs(), p.grad_z.data(), {}, {}, {one.grad_a.data(), false}});
  EXPECT_TRUE(one.grad_a.same_bits(all.grad_a));
  factored_mix_backward<T>(s, {p.inputs(), p.grad_z.data(), {}, {one.grad_to.data(), false}, {}});
  EXPECT_TRUE(one.grad_to.same_bits(all.grad_to));
}

}  // namespace
}  // namespace sluice::kernels
