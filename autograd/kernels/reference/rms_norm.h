#pragma once
// rms_norm as plain loops in the order of its equations.

#include <cmath>

#include "autograd/kernels/rms_norm.h"

namespace sluice::kernels::reference {

template <class T>
void rms_norm(int64_t rows, int64_t D, const RmsNorm<T>& args) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* x = args.x + row * D;
    T sum = 0;
    for (int64_t i = 0; i < D; ++i) sum += x[i] * x[i];
    const T r = 1 / std::sqrt(sum / static_cast<T>(D) + static_cast<T>(args.epsilon));
    for (int64_t i = 0; i < D; ++i) args.y[row * D + i] = args.weight[i] * (x[i] * r);
    args.reciprocal_rms[row] = r;
  }
}

template <class T>
void rms_norm_backward(int64_t rows, int64_t D, const RmsNormBackward<T>& args) {
  zero_unless_accumulating(args.grad_x, rows * D);
  zero_unless_accumulating(args.grad_weight, D);
  for (int64_t row = 0; row < rows; ++row) {
    const T* x = args.x + row * D;
    const T* grad_y = args.grad_y + row * D;
    const T r = args.reciprocal_rms[row];
    T mean = 0;
    for (int64_t i = 0; i < D; ++i) mean += grad_y[i] * args.weight[i] * (x[i] * r);
    mean /= static_cast<T>(D);
    for (int64_t i = 0; i < D; ++i) {
      const T n = x[i] * r;
      if (args.grad_x) args.grad_x.data[row * D + i] += r * (grad_y[i] * args.weight[i] - n * mean);
      if (args.grad_weight) args.grad_weight.data[i] += grad_y[i] * n;
    }
  }
}

}  // namespace sluice::kernels::reference
