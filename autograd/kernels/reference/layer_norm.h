#pragma once
// layer_norm as plain loops in the order of its equations.

#include <cmath>

#include "autograd/kernels/layer_norm.h"

namespace sluice::kernels::reference {

template <class T>
void layer_norm(int64_t rows, int64_t D, const LayerNorm<T>& args) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* x = args.x + row * D;
    T m = 0;
    for (int64_t i = 0; i < D; ++i) m += x[i];
    m /= static_cast<T>(D);
    T variance = 0;
    for (int64_t i = 0; i < D; ++i) variance += (x[i] - m) * (x[i] - m);
    variance /= static_cast<T>(D);
    const T r = 1 / std::sqrt(variance + static_cast<T>(args.epsilon));
    for (int64_t i = 0; i < D; ++i) {
      args.y[row * D + i] = args.weight[i] * ((x[i] - m) * r) + args.bias[i];
    }
    args.mean[row] = m;
    args.reciprocal_deviation[row] = r;
  }
}

template <class T>
void layer_norm_backward(int64_t rows, int64_t D, const LayerNormBackward<T>& args) {
  zero_unless_accumulating(args.grad_x, rows * D);
  zero_unless_accumulating(args.grad_weight, D);
  zero_unless_accumulating(args.grad_bias, D);
  for (int64_t row = 0; row < rows; ++row) {
    const T* x = args.x + row * D;
    const T* grad_y = args.grad_y + row * D;
    const T m = args.mean[row];
    const T r = args.reciprocal_deviation[row];
    T mean_g = 0;
    T mean_gn = 0;
    for (int64_t i = 0; i < D; ++i) {
      mean_g += grad_y[i] * args.weight[i];
      mean_gn += grad_y[i] * args.weight[i] * ((x[i] - m) * r);
    }
    mean_g /= static_cast<T>(D);
    mean_gn /= static_cast<T>(D);
    for (int64_t i = 0; i < D; ++i) {
      const T n = (x[i] - m) * r;
      const T g = grad_y[i] * args.weight[i];
      if (args.grad_x) args.grad_x.data[row * D + i] += r * (g - mean_g - n * mean_gn);
      if (args.grad_weight) args.grad_weight.data[i] += grad_y[i] * n;
      if (args.grad_bias) args.grad_bias.data[i] += grad_y[i];
    }
  }
}

}  // namespace sluice::kernels::reference
