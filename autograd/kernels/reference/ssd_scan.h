#pragma once
// The recurrence of Mamba-2 and its backward as plain loops, token by token.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/ssd_scan.h"

namespace sluice::kernels::reference {

/// d of one token and head.
template <class T>
T step_size(const SsdShape& shape, T raw) {
  const T softplus = std::max(raw, T{0}) + std::log1p(std::exp(-std::abs(raw)));
  return std::clamp(softplus, static_cast<T>(shape.dt_min), static_cast<T>(shape.dt_max));
}

/// args.states is not written.
template <class T>
void ssd_scan(const SsdShape& shape, std::span<const int64_t> documents, const SsdScan<T>& args) {
  const auto& [H, P, G, N, chunk, dt_min, dt_max] = shape;
  const SsdInputs<T>& in = args.in;
  std::vector<T> state(static_cast<size_t>(H * P * N));
  for (size_t g = 0; g + 1 < documents.size(); ++g) {
    std::fill(state.begin(), state.end(), T{0});
    if (g == 0 && args.initial != nullptr) std::copy_n(args.initial, H * P * N, state.begin());
    for (int64_t t = documents[g]; t < documents[g + 1]; ++t) {
      for (int64_t h = 0; h < H; ++h) {
        const T d = step_size(shape, args.dt[t * H + h] + args.dt_bias[h]);
        const T decay = std::exp(-std::exp(in.A_log[h]) * d);
        const T* B = in.B + t * in.stride + h / (H / G) * N;
        const T* C = in.C + t * in.stride + h / (H / G) * N;
        args.delta[t * H + h] = d;
        for (int64_t p = 0; p < P; ++p) {
          const T x = in.x[t * in.stride + h * P + p];
          T y = in.D[h] * x;
          for (int64_t n = 0; n < N; ++n) {
            T& s = state[static_cast<size_t>((h * P + p) * N + n)];
            s = decay * s + d * x * B[n];
            y += s * C[n];
          }
          args.y[(t * H + h) * P + p] = y;
        }
      }
    }
  }
  if (args.last != nullptr) std::copy(state.begin(), state.end(), args.last);
}

/// All gradients are wanted, and must accumulate or be zero beforehand; states and grad_states are
/// not used. lambda is the gradient of the state behind token t.
template <class T>
void ssd_scan_backward(const SsdShape& shape, std::span<const int64_t> documents,
                       const SsdScanBackward<T>& args) {
  const auto& [H, P, G, N, chunk, dt_min, dt_max] = shape;
  const SsdInputs<T>& in = args.in;
  for (size_t g = 0; g + 1 < documents.size(); ++g) {
    const int64_t first = documents[g];
    const int64_t length = documents[g + 1] - first;
    for (int64_t h = 0; h < H; ++h) {
      const T A = -std::exp(in.A_log[h]);
      const int64_t group = h / (H / G) * N;
      for (int64_t p = 0; p < P; ++p) {
        const auto x_at = [&](int64_t t) { return in.x[t * in.stride + h * P + p]; };
        for (int64_t n = 0; n < N; ++n) {
          std::vector<T> state(static_cast<size_t>(length) + 1);
          for (int64_t i = 0; i < length; ++i) {
            const int64_t t = first + i;
            const T d = args.delta[t * H + h];
            state[static_cast<size_t>(i) + 1] = std::exp(d * A) * state[static_cast<size_t>(i)] +
                                                d * x_at(t) * in.B[t * in.stride + group + n];
          }
          T lambda = 0;
          for (int64_t i = length - 1; i >= 0; --i) {
            const int64_t t = first + i;
            const int64_t at = t * in.stride + group + n;
            const T d = args.delta[t * H + h];
            const T grad_y = args.grad_y[(t * H + h) * P + p];
            lambda += grad_y * in.C[at];
            args.grad_C.data[at] += grad_y * state[static_cast<size_t>(i) + 1];
            args.grad_B.data[at] += lambda * d * x_at(t);
            args.grad_x.data[t * in.stride + h * P + p] += lambda * d * in.B[at];
            const T through = lambda * std::exp(d * A) * state[static_cast<size_t>(i)];
            // softplus' = 1 - e^-softplus; none where d is clamped.
            const bool is_free = d > static_cast<T>(dt_min) && d < static_cast<T>(dt_max);
            const T slope = is_free ? -std::expm1(-d) : T{0};
            const T grad_dt = slope * (lambda * x_at(t) * in.B[at] + through * A);
            args.grad_dt.data[t * H + h] += grad_dt;
            args.grad_dt_bias.data[h] += grad_dt;
            args.grad_A_log.data[h] += through * d * A;
            lambda *= std::exp(d * A);
          }
        }
        for (int64_t t = first; t < first + length; ++t) {
          const T grad_y = args.grad_y[(t * H + h) * P + p];
          args.grad_x.data[t * in.stride + h * P + p] += in.D[h] * grad_y;
          args.grad_D.data[h] += grad_y * x_at(t);
        }
      }
    }
  }
}

}  // namespace sluice::kernels::reference
