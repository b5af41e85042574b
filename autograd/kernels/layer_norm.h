#pragma once
// Layer normalisation over the last dimension (Ba, Kiros and Hinton 2016, "Layer normalization",
// equation 4).
//
//   m = mean(x),   r = (mean((x - m)^2) + epsilon)^(-1/2),   y = weight * (x - m) r + bias
//
// D is the row's width. Rows are independent bit for bit.

#include <cstdint>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

template <class T>
struct LayerNorm {
  const T* x;               // [rows, D]
  const T* weight;          // [D]
  const T* bias;            // [D]
  double epsilon;           // > 0
  T* y;                     // [rows, D]
  T* mean;                  // [rows]: m
  T* reciprocal_deviation;  // [rows]: r
};

template <class T>
void layer_norm(int64_t rows, int64_t D, const LayerNorm<T>& args);

template <class T>
struct LayerNormBackward {
  const T* x;                     // [rows, D]
  const T* weight;                // [D]
  const T* mean;                  // [rows], from the forward
  const T* reciprocal_deviation;  // [rows], from the forward
  const T* grad_y;                // [rows, D]
  Gradient<T> grad_x;             // [rows, D]
  Gradient<T> grad_weight;        // [D]
  Gradient<T> grad_bias;          // [D]
};

/// With g = grad_y * weight and n = (x - m) r:  grad_x = r (g - mean(g) - n mean(g n)),
/// grad_weight = sum_rows grad_y n,  grad_bias = sum_rows grad_y.
template <class T>
void layer_norm_backward(int64_t rows, int64_t D, const LayerNormBackward<T>& args);

}  // namespace sluice::kernels
