#pragma once
// SwiGLU's element-wise half (Shazeer 2020, "GLU variants improve transformer", equation 6):
//
//   h = silu(gate) * up,   silu(a) = a sigmoid(a)
//
// Gate and up are [rows, F], each with its own distance between rows, so that they may be the two
// halves of one [rows, 2 F] product.

#include <cstdint>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

template <class T>
struct SwiGlu {
  const T* gate;  // [rows, F]
  const T* up;    // [rows, F]
  int64_t
      in_stride;  // elements from one row of gate, and of up, to the next; F when they stand alone
  T* h;           // [rows, F], rows back to back
};

template <class T>
void swiglu(int64_t rows, int64_t F, const SwiGlu<T>& args);

template <class T>
struct SwiGluBackward {
  const T* gate;          // [rows, F]
  const T* up;            // [rows, F]
  int64_t in_stride;      // of gate, up, grad_gate and grad_up
  const T* grad_h;        // [rows, F], rows back to back
  Gradient<T> grad_gate;  // [rows, F]
  Gradient<T> grad_up;    // [rows, F]
};

/// grad_gate = grad_h up silu'(gate),  silu'(a) = s (1 + a (1 - s)) with s = sigmoid(a);  grad_up =
/// grad_h silu(gate).
template <class T>
void swiglu_backward(int64_t rows, int64_t F, const SwiGluBackward<T>& args);

}  // namespace sluice::kernels
