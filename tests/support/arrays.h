#pragma once
// Arrays for kernel tests: filled with fixed random numbers, deliberately not aligned to a
// register, compared with a reference that was computed in double.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"

namespace sluice::testing {

/// `size` elements that start one element past an allocation, with guards on both sides.
template <class T>
class Array {
 public:
  explicit Array(int64_t size, T value = T{})
      : size_(size), storage_(static_cast<size_t>(size) + 2) {
    std::fill_n(data(), size, value);
    storage_[0] = kGuard;
    storage_[static_cast<size_t>(size) + 1] = kGuard;
  }
  /// Uniform in [low, high), the same numbers for every T; `seed` picks another set.
  [[nodiscard]] static Array uniform(int64_t size, uint64_t seed, double low = -1.0,
                                     double high = 1.0) {
    Array result(size);
    for (int64_t i = 0; i < size; ++i) {
      const double u = sluice::uniform({.seed = seed}, 0, static_cast<uint64_t>(i));
      // Through float, so that a reference in double sees exactly what a kernel in float sees.
      result[i] = static_cast<T>(static_cast<float>(low + (high - low) * u));
    }
    return result;
  }
  [[nodiscard]] static Array of(std::initializer_list<T> values) {
    Array result(static_cast<int64_t>(values.size()));
    std::copy(values.begin(), values.end(), result.data());
    return result;
  }

  [[nodiscard]] T* data() { return storage_.data() + 1; }
  [[nodiscard]] const T* data() const { return storage_.data() + 1; }
  [[nodiscard]] int64_t size() const { return size_; }
  T& operator[](int64_t i) { return storage_[static_cast<size_t>(i + 1)]; }
  const T& operator[](int64_t i) const { return storage_[static_cast<size_t>(i + 1)]; }
  /// False when something wrote outside the array.
  [[nodiscard]] bool guards_intact() const {
    return storage_[0] == kGuard && storage_[static_cast<size_t>(size_) + 1] == kGuard;
  }
  /// Equal bits, so that NaN equals NaN and -0 differs from 0.
  [[nodiscard]] bool same_bits(const Array& other) const {
    return size() == other.size() &&
           std::memcmp(data(), other.data(), static_cast<size_t>(size()) * sizeof(T)) == 0;
  }
  [[nodiscard]] Array<double> in_double() const {
    Array<double> result(size());
    for (int64_t i = 0; i < size(); ++i) result[i] = static_cast<double>((*this)[i]);
    return result;
  }

 private:
  static constexpr T kGuard = T(77);
  int64_t size_;
  std::vector<T> storage_;
};

/// |actual - expected| <= coefficient * epsilon(T) * max(1, |expected|) for every element.
template <class T>
void expect_close(const Array<T>& actual, const Array<double>& expected, double coefficient) {
  ASSERT_EQ(actual.size(), expected.size());
  EXPECT_TRUE(actual.guards_intact());
  constexpr double kEpsilon = static_cast<double>(std::numeric_limits<T>::epsilon());
  for (int64_t i = 0; i < actual.size(); ++i) {
    const double tolerance = coefficient * kEpsilon * std::max(1.0, std::abs(expected[i]));
    ASSERT_NEAR(static_cast<double>(actual[i]), expected[i], tolerance) << "element " << i;
  }
}

/// Calls compute() with 1, 2 and 3 threads and expects the same bits each time.
template <class Compute>
void expect_same_bits_on_any_threads(Compute&& compute) {
  const int before = num_threads();
  set_num_threads(1);
  const auto expected = compute();
  for (const int threads : {2, 3}) {
    set_num_threads(threads);
    EXPECT_TRUE(compute().same_bits(expected)) << threads << " threads";
  }
  set_num_threads(before);
}

/// Lengths around the ends of registers, lanes and blocks.
inline constexpr int64_t kLengths[] = {0,  1,  2,  3,  7,  8,  9,   15,  16,   17,
                                       31, 32, 33, 63, 64, 65, 100, 257, 1000, 16387};

}  // namespace sluice::testing
