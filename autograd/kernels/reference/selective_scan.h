#pragma once
// selective_scan as plain loops in the order of its equations.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/selective_scan.h"

namespace sluice::kernels::reference {

template <class T>
T selective_step(const SelectiveInputs<T>& in, int64_t E, int64_t t, int64_t c) {
  const T raw = in.dt[t * E + c] + in.dt_bias[c];
  return std::max(raw, T{0}) + std::log1p(std::exp(-std::abs(raw)));
}

/// args.states is not written.
template <class T>
void selective_scan(const SelectiveShape& shape, std::span<const int64_t> documents,
                    const SelectiveScan<T>& args) {
  const auto& [E, N] = shape;
  const SelectiveInputs<T>& in = args.in;
  std::vector<T> h(static_cast<size_t>(E * N));
  for (size_t g = 0; g + 1 < documents.size(); ++g) {
    std::fill(h.begin(), h.end(), T{0});
    if (g == 0 && args.initial != nullptr) std::copy_n(args.initial, E * N, h.begin());
    for (int64_t t = documents[g]; t < documents[g + 1]; ++t) {
      for (int64_t c = 0; c < E; ++c) {
        const T d = selective_step(in, E, t, c);
        const T u = in.u[t * E + c];
        T y = in.D[c] * u;
        for (int64_t n = 0; n < N; ++n) {
          T& state = h[static_cast<size_t>(n * E + c)];
          state = std::exp(-std::exp(in.A_log[c * N + n]) * d) * state + d * in.B[t * N + n] * u;
          y += in.C[t * N + n] * state;
        }
        args.y[t * E + c] = y;
      }
    }
  }
  if (args.last != nullptr) std::copy(h.begin(), h.end(), args.last);
}

/// All gradients are wanted, and must accumulate or be zero beforehand; states and workspace are not
/// used.
template <class T>
void selective_scan_backward(const SelectiveShape& shape, std::span<const int64_t> documents,
                             const SelectiveScanBackward<T>& args) {
  const auto& [E, N] = shape;
  const SelectiveInputs<T>& in = args.in;
  for (size_t g = 0; g + 1 < documents.size(); ++g) {
    const int64_t first = documents[g];
    const int64_t length = documents[g + 1] - first;
    for (int64_t c = 0; c < E; ++c) {
      for (int64_t n = 0; n < N; ++n) {
        const T A = -std::exp(in.A_log[c * N + n]);
        std::vector<T> h(static_cast<size_t>(length) + 1);
        for (int64_t i = 0; i < length; ++i) {
          const int64_t t = first + i;
          const T d = selective_step(in, E, t, c);
          h[static_cast<size_t>(i) + 1] =
              std::exp(d * A) * h[static_cast<size_t>(i)] + d * in.B[t * N + n] * in.u[t * E + c];
        }
        T lambda = 0;
        for (int64_t i = length - 1; i >= 0; --i) {
          const int64_t t = first + i;
          const T d = selective_step(in, E, t, c);
          const T u = in.u[t * E + c];
          const T grad_y = args.grad_y[t * E + c];
          lambda += grad_y * in.C[t * N + n];
          args.grad_C.data[t * N + n] += grad_y * h[static_cast<size_t>(i) + 1];
          args.grad_B.data[t * N + n] += lambda * d * u;
          args.grad_u.data[t * E + c] += d * lambda * in.B[t * N + n];
          const T w = lambda * std::exp(d * A) * h[static_cast<size_t>(i)];
          const T grad_dt = -std::expm1(-d) * (u * lambda * in.B[t * N + n] + w * A);
          args.grad_dt.data[t * E + c] += grad_dt;
          args.grad_dt_bias.data[c] += grad_dt;
          args.grad_A_log.data[c * N + n] += w * d * A;
          lambda *= std::exp(d * A);
        }
      }
      for (int64_t t = first; t < first + length; ++t) {
        args.grad_u.data[t * E + c] += in.D[c] * args.grad_y[t * E + c];
        args.grad_D.data[c] += args.grad_y[t * E + c] * in.u[t * E + c];
      }
    }
  }
}

}  // namespace sluice::kernels::reference
