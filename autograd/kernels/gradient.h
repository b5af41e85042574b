#pragma once
// Where a backward kernel leaves a gradient.

#include <cstdint>

#include "autograd/kernels/simd.h"

namespace sluice::kernels {

/// The destination of one gradient: null when it is not wanted; added to, or (beta = 0 in BLAS)
/// overwritten without being read. Arguments written `{.data = p, .accumulate = true}`.
template <class T>
struct Gradient {
  T* data = nullptr;
  bool accumulate = true;
  [[nodiscard]] explicit operator bool() const { return data != nullptr; }
  /// The part that starts at element `offset`.
  [[nodiscard]] Gradient from(int64_t offset) const { return {data + offset, accumulate}; }
};

/// For i in [0, n): gradient[i] += value(i), or = value(i).
template <class T, class Value>
inline void put_gradient(const Gradient<T>& gradient, int64_t n, Value&& value) {
  T* data = gradient.data;
  if (gradient.accumulate) {
    for (int64_t i = 0; i < n; ++i) data[i] += value(i);
  } else {
    for (int64_t i = 0; i < n; ++i) data[i] = value(i);
  }
}

/// The same for the `count` elements from i on, held in a register.
template <class T>
inline void put_gradient(const Gradient<T>& gradient, int64_t i, int64_t count, Vec<T> value) {
  T* data = gradient.data + i;
  store_first(data, gradient.accumulate ? load_first(data, count) + value : value, count);
}

/// Makes an overwritten gradient of n elements one that can be added to piecewise.
template <class T>
inline void zero_unless_accumulating(const Gradient<T>& gradient, int64_t n) {
  if (gradient.data == nullptr || gradient.accumulate) return;
  for (int64_t i = 0; i < n; ++i) gradient.data[i] = T{0};
}

}  // namespace sluice::kernels
