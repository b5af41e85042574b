#pragma once
// Gated RMSNorm over groups of channels (Dao and Gu 2024, "Transformers are SSMs", section 7 and the
// layer's code: the norm in front of Mamba-2's output projection).
//
//   gate first:  t = x silu(z),   y = weight * t r,           r = (mean over the group of t^2 + epsilon)^(-1/2)
//   norm first:  t = x,           y = weight * t r * silu(z)
//
// A row of D channels has D / group_size groups side by side. Rows are independent bit for bit.

#include <cstdint>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

struct GatedRmsNormShape {
  int64_t D;
  int64_t group_size;  // a divisor of D
  bool norm_before_gate;
  double epsilon;
};

template <class T>
struct GatedRmsNorm {
  const T* x;         // [rows, D]
  const T* z;         // [rows, D]
  const T* weight;    // [D]
  T* y;               // [rows, D]
  T* reciprocal_rms;  // [rows, D / group_size]: r
};

template <class T>
void gated_rms_norm(int64_t rows, const GatedRmsNormShape& shape, const GatedRmsNorm<T>& args);

template <class T>
struct GatedRmsNormBackward {
  const T* x;               // [rows, D]
  const T* z;               // [rows, D]
  const T* weight;          // [D]
  const T* reciprocal_rms;  // [rows, D / group_size], from the forward
  const T* grad_y;          // [rows, D]
  Gradient<T> grad_x;       // [rows, D]; any of them may be unwanted
  Gradient<T> grad_z;       // [rows, D]
  Gradient<T> grad_weight;  // [D]
};

/// With n = t r and g = grad_y * weight (times silu(z) when the norm comes first):
/// grad_t = r (g - n mean(g n)). Gate first: grad_x = grad_t silu(z), grad_z = grad_t x silu'(z),
/// grad_weight = sum grad_y n. Norm first: grad_x = grad_t, grad_z = grad_y weight n silu'(z),
/// grad_weight = sum grad_y n silu(z).
template <class T>
void gated_rms_norm_backward(int64_t rows, const GatedRmsNormShape& shape,
                             const GatedRmsNormBackward<T>& args);

}  // namespace sluice::kernels
