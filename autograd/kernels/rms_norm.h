#pragma once
// Root-mean-square normalisation over the last dimension (Zhang and Sennrich 2019, "Root mean
// square layer normalization", equation 4).
//
//   r = (mean(x^2) + epsilon)^(-1/2),   y = weight * x r
//
// D is the row's width. Rows are independent bit for bit.

#include <cstdint>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

template <class T>
struct RmsNorm {
  const T* x;         // [rows, D]
  const T* weight;    // [D]
  double epsilon;     // > 0
  T* y;               // [rows, D]
  T* reciprocal_rms;  // [rows]: r, all that the backward needs beside x and weight
};

template <class T>
void rms_norm(int64_t rows, int64_t D, const RmsNorm<T>& args);

template <class T>
struct RmsNormBackward {
  const T* x;               // [rows, D]
  const T* weight;          // [D]
  const T* reciprocal_rms;  // [rows], from the forward
  const T* grad_y;          // [rows, D]
  Gradient<T> grad_x;       // [rows, D]
  Gradient<T> grad_weight;  // [D]
};

/// With g = grad_y * weight and n = x r:  grad_x = r (g - n mean(g n)),  grad_weight = sum_rows
/// grad_y n.
template <class T>
void rms_norm_backward(int64_t rows, int64_t D, const RmsNormBackward<T>& args);

}  // namespace sluice::kernels
