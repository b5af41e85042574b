#pragma once
// GELU in its tanh form (Hendrycks and Gimpel 2016, "Gaussian error linear units", section 2;
// GPT-2's gelu_new):
//
//   y = x/2 (1 + tanh(u)),   u = sqrt(2/pi) (x + 0.044715 x^3)

#include <cstdint>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

template <class T>
void gelu_tanh(int64_t n, const T* x, T* y);

/// grad_x = grad_y (1/2 (1 + t) + x/2 (1 - t^2) u'(x)),   t = tanh(u)
template <class T>
void gelu_tanh_backward(int64_t n, const T* x, const T* grad_y, const Gradient<T>& grad_x);

}  // namespace sluice::kernels
