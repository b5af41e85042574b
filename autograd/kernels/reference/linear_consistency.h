#pragma once
// The divergence of two passes through the head as plain loops over whole logits.

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

#include "autograd/kernels/linear_consistency.h"

namespace sluice::kernels::reference {

/// log softmax of hidden weight^T for one row of hidden [D].
template <class T>
std::vector<T> log_prediction(const LinearConsistency<T>& args, const T* hidden) {
  std::vector<T> z(static_cast<size_t>(args.V), T{0});
  for (int64_t v = 0; v < args.V; ++v) {
    for (int64_t d = 0; d < args.D; ++d) {
      z[static_cast<size_t>(v)] += hidden[d] * args.weight[v * args.D + d];
    }
  }
  const T m = *std::max_element(z.begin(), z.end());
  T total = 0;
  for (const T value : z) total += std::exp(value - m);
  for (T& value : z) value -= m + std::log(total);
  return z;
}

template <class T>
double linear_consistency(const LinearConsistency<T>& args) {
  const auto [N, D, V] = std::array{args.N, args.D, args.V};
  if (args.grad_hidden != nullptr) std::fill_n(args.grad_hidden, 2 * N * D, T{0});
  if (args.grad_weight != nullptr) std::fill_n(args.grad_weight, V * D, T{0});
  double loss = 0.0;
  for (int64_t n = 0; n < N; ++n) {
    if (args.targets[n] < 0) continue;
    const std::array<int64_t, 2> rows = {n, N + n};
    const std::array<std::vector<T>, 2> log_p = {log_prediction(args, args.hidden + n * D),
                                                 log_prediction(args, args.hidden + (N + n) * D)};
    for (size_t pass = 0; pass < 2; ++pass) {
      const auto& own = log_p[pass];
      const auto& other = log_p[1 - pass];
      T kl = 0;
      for (size_t v = 0; v < own.size(); ++v) kl += std::exp(own[v]) * (own[v] - other[v]);
      loss += kl / 2;
      for (size_t v = 0; v < own.size(); ++v) {
        const T p = std::exp(own[v]);
        const T dz = (p * (own[v] - other[v] - kl) + p - std::exp(other[v])) / (2 * args.divisor);
        for (int64_t d = 0; d < D; ++d) {
          const int64_t h = rows[pass] * D + d;
          const int64_t w = static_cast<int64_t>(v) * D + d;
          if (args.grad_hidden != nullptr) args.grad_hidden[h] += dz * args.weight[w];
          if (args.grad_weight != nullptr) args.grad_weight[w] += dz * args.hidden[h];
        }
      }
    }
  }
  return loss / args.divisor;
}

}  // namespace sluice::kernels::reference
