#pragma once
// SwiGLU experts as plain loops, row by row.

#include <cmath>
#include <vector>

#include "autograd/kernels/swiglu_experts.h"

namespace sluice::kernels::reference {

/// What one row of one expert computes.
template <class T>
struct ExpertRow {
  ExpertRow(const ExpertsShape& shape, const ExpertWeights<T>& weights, int64_t e, const T* x)
      : gate(static_cast<size_t>(shape.F)), up(gate), h(gate) {
    for (int64_t f = 0; f < shape.F; ++f) {
      const auto at = static_cast<size_t>(f);
      for (int64_t d = 0; d < shape.D; ++d) {
        gate[at] += weights.gate[(e * shape.F + f) * shape.D + d] * x[d];
        up[at] += weights.up[(e * shape.F + f) * shape.D + d] * x[d];
      }
      h[at] = gate[at] / (1 + std::exp(-gate[at])) * up[at];
    }
  }
  std::vector<T> gate, up, h;
};

template <class T>
void swiglu_experts(const ExpertsShape& shape, const ExpertWeights<T>& weights, const T* x, T* y) {
  for (int64_t e = 0; e < shape.E; ++e) {
    for (int64_t r = shape.offsets[e]; r < shape.offsets[e + 1]; ++r) {
      const ExpertRow<T> row(shape, weights, e, x + shape.token(r) * shape.D);
      for (int64_t d = 0; d < shape.D; ++d) {
        T sum = 0;
        for (int64_t f = 0; f < shape.F; ++f) {
          sum += weights.down[(e * shape.D + d) * shape.F + f] * row.h[static_cast<size_t>(f)];
        }
        y[r * shape.D + d] = sum;
      }
    }
  }
}

/// Recomputes g and u from x: args.hidden is not read.
template <class T>
void swiglu_experts_backward(const ExpertsShape& shape, const ExpertWeights<T>& weights, const T* x,
                             const ExpertsBackward<T>& args, const ExpertsRows<T>& rows) {
  const int64_t D = shape.D;
  const int64_t F = shape.F;
  for (int64_t e = 0; e < shape.E; ++e) {
    for (int64_t r = shape.offsets[e]; r < shape.offsets[e + 1]; ++r) {
      const ExpertRow<T> row(shape, weights, e, x + shape.token(r) * D);
      const T* grad_y = args.grad_y + shape.token(r) * D;
      const int64_t slot = args.slot_of_row == nullptr ? r : args.slot_of_row[r];
      const T weight = args.weight == nullptr ? T{1} : args.weight[slot];
      std::vector<T> grad_x(static_cast<size_t>(D));
      T dot = 0;
      for (int64_t f = 0; f < F; ++f) {
        const auto at = static_cast<size_t>(f);
        T plain = 0;
        for (int64_t d = 0; d < D; ++d) plain += weights.down[(e * D + d) * F + f] * grad_y[d];
        const T g = row.gate[at];
        const T s = 1 / (1 + std::exp(-g));
        const T grad_up = weight * plain * g * s;
        const T grad_gate = weight * plain * row.up[at] * s * (1 + g * (1 - s));
        dot += plain * row.h[at];
        rows.grad_gate[r * F + f] = grad_gate;
        rows.grad_up[r * F + f] = grad_up;
        rows.hidden[r * F + f] = weight * row.h[at];
        for (int64_t d = 0; d < D; ++d) {
          grad_x[static_cast<size_t>(d)] += weights.gate[(e * F + f) * D + d] * grad_gate +
                                            weights.up[(e * F + f) * D + d] * grad_up;
        }
      }
      put_gradient(args.grad_rows.from(r * D), D,
                   [&](int64_t d) { return grad_x[static_cast<size_t>(d)]; });
      put_gradient(args.grad_weight.from(slot), 1, [&](int64_t) { return dot; });
    }
  }
}

}  // namespace sluice::kernels::reference
