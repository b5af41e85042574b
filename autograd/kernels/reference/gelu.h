#pragma once
// GELU (tanh form) as plain loops.

#include <cmath>
#include <numbers>

#include "autograd/kernels/gelu.h"

namespace sluice::kernels::reference {

template <class T>
void gelu_tanh(int64_t n, const T* x, T* y) {
  const T c = static_cast<T>(std::sqrt(2.0 / std::numbers::pi));
  for (int64_t i = 0; i < n; ++i) {
    const T u = c * (x[i] + T(0.044715) * x[i] * x[i] * x[i]);
    y[i] = x[i] / 2 * (1 + std::tanh(u));
  }
}

template <class T>
void gelu_tanh_backward(int64_t n, const T* x, const T* grad_y, const Gradient<T>& grad_x) {
  const T c = static_cast<T>(std::sqrt(2.0 / std::numbers::pi));
  put_gradient(grad_x, n, [=](int64_t i) {
    const T t = std::tanh(c * (x[i] + T(0.044715) * x[i] * x[i] * x[i]));
    const T slope = c * (1 + 3 * T(0.044715) * x[i] * x[i]);
    return grad_y[i] * ((1 + t) / 2 + x[i] / 2 * (1 - t * t) * slope);
  });
}

}  // namespace sluice::kernels::reference
