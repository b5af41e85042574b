#pragma once
// gated_rms_norm as plain loops in the order of its equations.

#include <cmath>

#include "autograd/kernels/gated_rms_norm.h"

namespace sluice::kernels::reference {

template <class T>
void gated_rms_norm(int64_t rows, const GatedRmsNormShape& shape, const GatedRmsNorm<T>& args) {
  const int64_t S = shape.group_size;
  for (int64_t group = 0; group < rows * (shape.D / S); ++group) {
    T sum = 0;
    for (int64_t i = group * S; i < (group + 1) * S; ++i) {
      const T gate = args.z[i] / (1 + std::exp(-args.z[i]));
      const T t = shape.norm_before_gate ? args.x[i] : args.x[i] * gate;
      sum += t * t;
    }
    const T r = 1 / std::sqrt(sum / static_cast<T>(S) + static_cast<T>(shape.epsilon));
    for (int64_t i = group * S; i < (group + 1) * S; ++i) {
      const T gate = args.z[i] / (1 + std::exp(-args.z[i]));
      args.y[i] = args.weight[i % shape.D] * args.x[i] * gate * r;
    }
    args.reciprocal_rms[group] = r;
  }
}

template <class T>
void gated_rms_norm_backward(int64_t rows, const GatedRmsNormShape& shape,
                             const GatedRmsNormBackward<T>& args) {
  const int64_t D = shape.D;
  const int64_t S = shape.group_size;
  zero_unless_accumulating(args.grad_x, rows * D);
  zero_unless_accumulating(args.grad_z, rows * D);
  zero_unless_accumulating(args.grad_weight, D);
  for (int64_t group = 0; group < rows * (D / S); ++group) {
    const T r = args.reciprocal_rms[group];
    const auto each = [&](auto&& body) {
      for (int64_t i = group * S; i < (group + 1) * S; ++i) {
        const T s = 1 / (1 + std::exp(-args.z[i]));
        const T gate = args.z[i] * s;
        const T slope = s * (1 + args.z[i] * (1 - s));
        const T n = r * args.x[i] * (shape.norm_before_gate ? T{1} : gate);
        const T g = args.grad_y[i] * args.weight[i % D] * (shape.norm_before_gate ? gate : T{1});
        body(i, gate, slope, n, g);
      }
    };
    T mean = 0;
    each([&](int64_t, T, T, T n, T g) { mean += g * n; });
    mean /= static_cast<T>(S);
    each([&](int64_t i, T gate, T slope, T n, T g) {
      const T grad_t = r * (g - n * mean);
      const T weighted = args.grad_y[i] * args.weight[i % D];
      const bool norm_first = shape.norm_before_gate;
      if (args.grad_x) args.grad_x.data[i] += norm_first ? grad_t : grad_t * gate;
      if (args.grad_z) {
        args.grad_z.data[i] += slope * (norm_first ? weighted * n : grad_t * args.x[i]);
      }
      if (args.grad_weight) {
        args.grad_weight.data[i % D] += args.grad_y[i] * n * (norm_first ? gate : T{1});
      }
    });
  }
}

}  // namespace sluice::kernels::reference
