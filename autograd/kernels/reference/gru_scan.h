#pragma once
// gru_scan as plain loops in the order of its equations, segment by segment.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/gru_scan.h"

namespace sluice::kernels::reference {

template <class T>
T gru_sigmoid(T x) {
  return T{1} / (T{1} + std::exp(-x));
}

/// The expert whose row this is.
inline int64_t gru_expert(const GruShape& shape, const int32_t* expert_offsets, int64_t row) {
  return std::upper_bound(expert_offsets, expert_offsets + shape.E + 1, row) - expert_offsets - 1;
}

template <class T>
void gru_scan(const GruShape& shape, std::span<const int64_t> segments, const GruScan<T>& args) {
  const int64_t P = shape.P;
  const GruInputs<T>& in = args.in;
  for (size_t g = 0; g + 1 < segments.size(); ++g) {
    if (segments[g] == segments[g + 1]) continue;
    const int64_t e = gru_expert(shape, in.expert_offsets, segments[g]);
    std::vector<T> h(static_cast<size_t>(P), T{0});
    if (args.initial != nullptr && segments[g] == in.expert_offsets[e]) {
      std::copy_n(args.initial + e * P, P, h.begin());
    }
    for (int64_t row = segments[g]; row < segments[g + 1]; ++row) {
      const auto product = [&](int64_t o) {
        T sum{0};
        for (int64_t i = 0; i < P; ++i) {
          sum += in.weight[(e * 3 * P + o) * P + i] * h[static_cast<size_t>(i)];
        }
        return sum;
      };
      std::vector<T> next(static_cast<size_t>(P));
      for (int64_t i = 0; i < P; ++i) {
        const T* a = in.a + row * 3 * P;
        const T* b = in.bias + e * 4 * P;
        const T r = gru_sigmoid(a[i] + b[i] + product(i));
        const T u = gru_sigmoid(a[P + i] + b[P + i] + product(P + i));
        const T s = product(2 * P + i) + b[3 * P + i];
        const T c = std::tanh(a[2 * P + i] + b[2 * P + i] + r * s);
        next[static_cast<size_t>(i)] = (T{1} - u) * c + u * h[static_cast<size_t>(i)];
        if (args.gates == nullptr) continue;
        T* gates = args.gates + row * 4 * P;
        gates[i] = r;
        gates[P + i] = u;
        gates[2 * P + i] = c;
        gates[3 * P + i] = s;
      }
      h = next;
      std::copy(h.begin(), h.end(), args.h + row * P);
    }
    if (args.last != nullptr && segments[g + 1] == in.expert_offsets[e + 1]) {
      std::copy(h.begin(), h.end(), args.last + e * P);
    }
  }
}

/// All gradients are wanted; the workspace is not used.
template <class T>
void gru_scan_backward(const GruShape& shape, std::span<const int64_t> segments,
                       const GruScanBackward<T>& args) {
  const int64_t P = shape.P;
  const GruInputs<T>& in = args.in;
  const int64_t rows = in.expert_offsets[shape.E];
  zero_unless_accumulating(args.grad_a, rows * 3 * P);
  zero_unless_accumulating(args.grad_weight, shape.E * 3 * P * P);
  zero_unless_accumulating(args.grad_bias, shape.E * 4 * P);
  for (size_t g = 0; g + 1 < segments.size(); ++g) {
    if (segments[g] == segments[g + 1]) continue;
    const int64_t e = gru_expert(shape, in.expert_offsets, segments[g]);
    std::vector<T> l(static_cast<size_t>(P), T{0});
    for (int64_t row = segments[g + 1] - 1; row >= segments[g]; --row) {
      std::vector<T> carry(static_cast<size_t>(P), T{0});
      const T* gates = args.gates + row * 4 * P;
      const auto before = [&](int64_t i) {
        return row == segments[g] ? T{0} : args.h[(row - 1) * P + i];
      };
      for (int64_t i = 0; i < P; ++i) {
        const T r = gates[i];
        const T u = gates[P + i];
        const T c = gates[2 * P + i];
        const T total = l[static_cast<size_t>(i)] + args.grad_h[row * P + i];
        const T du = total * (before(i) - c) * u * (T{1} - u);
        const T dc = total * (T{1} - u) * (T{1} - c * c);
        const T dr = dc * gates[3 * P + i] * r * (T{1} - r);
        const T products[] = {dr, du, dc * r};
        const T inputs[] = {dr, du, dc};
        carry[static_cast<size_t>(i)] += total * u;
        for (int64_t part = 0; part < 3; ++part) {
          args.grad_a.data[row * 3 * P + part * P + i] += inputs[part];
          args.grad_bias.data[e * 4 * P + part * P + i] += inputs[part];
          const int64_t o = (e * 3 + part) * P + i;
          for (int64_t k = 0; k < P; ++k) {
            args.grad_weight.data[o * P + k] += products[part] * before(k);
            carry[static_cast<size_t>(k)] += in.weight[o * P + k] * products[part];
          }
        }
        args.grad_bias.data[e * 4 * P + 3 * P + i] += dc * r;
      }
      l = carry;
    }
  }
}

}  // namespace sluice::kernels::reference
