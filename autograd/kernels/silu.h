#pragma once
// silu(a) = a sigmoid(a) and its slope, on registers.

#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {

template <class T>
[[nodiscard]] inline Vec<T> silu(Vec<T> a) {
  return a * sigmoid(a);
}

/// silu'(a) = s (1 + a (1 - s)), s = sigmoid(a).
template <class T>
[[nodiscard]] inline Vec<T> silu_slope(Vec<T> a, Vec<T> s) {
  const Vec<T> one = broadcast(T{1});
  return s * (one + a * (one - s));
}

}  // namespace sluice::kernels
