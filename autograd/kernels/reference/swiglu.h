#pragma once
// SwiGLU as plain loops.

#include <cmath>

#include "autograd/kernels/swiglu.h"

namespace sluice::kernels::reference {

template <class T>
void swiglu(int64_t rows, int64_t F, const SwiGlu<T>& args) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < F; ++i) {
      const T a = args.gate[row * args.in_stride + i];
      args.h[row * F + i] = a / (1 + std::exp(-a)) * args.up[row * args.in_stride + i];
    }
  }
}

template <class T>
void swiglu_backward(int64_t rows, int64_t F, const SwiGluBackward<T>& args) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < F; ++i) {
      const int64_t place = row * args.in_stride + i;
      const T a = args.gate[place];
      const T s = 1 / (1 + std::exp(-a));
      const T g = args.grad_h[row * F + i];
      if (args.grad_gate) {
        put_gradient(args.grad_gate.from(place), 1,
                     [&](int64_t) { return g * args.up[place] * (s * (1 + a * (1 - s))); });
      }
      if (args.grad_up)
        put_gradient(args.grad_up.from(place), 1, [&](int64_t) { return g * a * s; });
    }
  }
}

}  // namespace sluice::kernels::reference
