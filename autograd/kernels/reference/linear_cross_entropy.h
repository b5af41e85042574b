#pragma once
// Head and cross-entropy as plain loops over whole logits.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/linear_cross_entropy.h"

namespace sluice::kernels::reference {

template <class T>
double linear_cross_entropy(const LinearCrossEntropy<T>& args) {
  const int64_t D = args.D;
  const int64_t V = args.V;
  if (args.grad_hidden != nullptr) std::fill_n(args.grad_hidden, args.N * D, T{0});
  if (args.grad_weight != nullptr) std::fill_n(args.grad_weight, V * D, T{0});
  double loss = 0.0;
  for (int64_t n = 0; n < args.N; ++n) {
    args.token_loss[n] = 0;
    if (args.targets[n] < 0) continue;
    std::vector<T> z(static_cast<size_t>(V), T{0});
    for (int64_t v = 0; v < V; ++v) {
      for (int64_t d = 0; d < D; ++d) {
        z[static_cast<size_t>(v)] += args.hidden[n * D + d] * args.weight[v * D + d];
      }
    }
    const T m = *std::max_element(z.begin(), z.end());
    T total = 0;
    for (const T value : z) total += std::exp(value - m);
    const T lse = m + std::log(total);
    args.token_loss[n] = lse - z[static_cast<size_t>(args.targets[n])];
    loss += args.token_loss[n] + args.z_loss * lse * lse;
    for (int64_t v = 0; v < V; ++v) {
      const T p = std::exp(z[static_cast<size_t>(v)] - lse);
      const T onehot = v == args.targets[n] ? T{1} : T{0};
      const T dz = (p - onehot + 2 * args.z_loss * lse * p) / args.divisor;
      for (int64_t d = 0; d < D; ++d) {
        if (args.grad_hidden != nullptr) args.grad_hidden[n * D + d] += dz * args.weight[v * D + d];
        if (args.grad_weight != nullptr) args.grad_weight[v * D + d] += dz * args.hidden[n * D + d];
      }
    }
  }
  return loss / args.divisor;
}

}  // namespace sluice::kernels::reference
