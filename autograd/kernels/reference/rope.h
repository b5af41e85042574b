#pragma once
// Rotary position embedding pair by pair, as in its equations.

#include <vector>

#include "autograd/kernels/rope.h"

namespace sluice::kernels::reference {

/// y = R x, or (sign = -1) R^T x, for x [N, H, P].
template <class T>
void rotate(int64_t N, const Rope<T>& r, T sign, const T* x, T* y) {
  for (int64_t token = 0; token < N; ++token) {
    for (int64_t head = 0; head < r.H; ++head) {
      const int64_t start = (token * r.H + head) * r.P;
      for (int64_t i = 0; i < r.P; ++i) y[start + i] = x[start + i];
      for (int64_t i = 0; i < r.pairs; ++i) {
        const bool split = r.layout == RopeLayout::half_split;
        const int64_t a = start + (split ? i : 2 * i);
        const int64_t b = start + (split ? i + r.pairs : 2 * i + 1);
        const T cos = r.cos[r.position[token] * r.pairs + i];
        const T sin = sign * r.sin[r.position[token] * r.pairs + i];
        y[a] = x[a] * cos - x[b] * sin;
        y[b] = x[b] * cos + x[a] * sin;
      }
    }
  }
}

template <class T>
void rope(int64_t N, const Rope<T>& rotation, const T* x, T* y) {
  rotate(N, rotation, T{1}, x, y);
}

template <class T>
void rope_backward(int64_t N, const Rope<T>& rotation, const T* grad_y, const Gradient<T>& grad_x) {
  const int64_t n = N * rotation.H * rotation.P;
  std::vector<T> turned(static_cast<size_t>(n));
  rotate(N, rotation, T{-1}, grad_y, turned.data());
  put_gradient(grad_x, n, [&](int64_t i) { return turned[static_cast<size_t>(i)]; });
}

}  // namespace sluice::kernels::reference
