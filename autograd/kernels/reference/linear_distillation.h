#pragma once
// The divergence of a student from a teacher as plain loops over whole logits.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/linear_distillation.h"

namespace sluice::kernels::reference {

/// log softmax of (weight h / tau) for one row of hidden states h [D].
template <class T>
std::vector<T> softened_log(const T* h, const T* weight, int64_t V, int64_t D, T temperature) {
  std::vector<T> z;
  for (int64_t v = 0; v < V; ++v) {
    T sum = 0;
    for (int64_t d = 0; d < D; ++d) sum += weight[v * D + d] * h[d];
    z.push_back(sum / temperature);
  }
  const T largest = *std::ranges::max_element(z);
  T total = 0;
  for (const T logit : z) total += std::exp(logit - largest);
  const T norm = largest + std::log(total);
  for (T& logit : z) logit -= norm;
  return z;
}

template <class T>
double linear_distillation(const LinearDistillation<T>& args) {
  if (args.grad_hidden != nullptr) std::fill_n(args.grad_hidden, args.N * args.D, T{0});
  if (args.grad_weight != nullptr) std::fill_n(args.grad_weight, args.V * args.D, T{0});
  double loss = 0.0;
  for (int64_t n = 0; n < args.N; ++n) {
    if (args.targets[n] < 0) continue;
    const T* h = args.hidden + n * args.D;
    const auto log_p = softened_log(h, args.weight, args.V, args.D, args.temperature);
    const auto log_q = softened_log(args.teacher_hidden + n * args.C, args.teacher_weight, args.V,
                                    args.C, args.temperature);
    for (int64_t v = 0; v < args.V; ++v) {
      const auto i = static_cast<size_t>(v);
      const T q = std::exp(log_q[i]);
      loss += args.temperature * args.temperature * q * (log_q[i] - log_p[i]);
      const T dz = args.temperature * (std::exp(log_p[i]) - q) / args.divisor;
      for (int64_t d = 0; d < args.D; ++d) {
        if (args.grad_hidden != nullptr) {
          args.grad_hidden[n * args.D + d] += dz * args.weight[v * args.D + d];
        }
        if (args.grad_weight != nullptr) args.grad_weight[v * args.D + d] += dz * h[d];
      }
    }
  }
  return loss / static_cast<double>(args.divisor);
}

}  // namespace sluice::kernels::reference
