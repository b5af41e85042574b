#pragma once
// The experts of a token by their n^2 weights, as plain loops.

#include <vector>

#include "autograd/kernels/factored_mix.h"

namespace sluice::kernels::reference {

/// weight[i, j] = sum_h from[h, i] to[h, j] of one token
template <class T>
std::vector<T> pair_weights(const MixShape& s, const MixInputs<T>& in, int64_t token) {
  std::vector<T> weight(static_cast<size_t>(s.n * s.n), T{0});
  for (int64_t h = 0; h < s.H; ++h) {
    for (int64_t i = 0; i < s.n; ++i) {
      for (int64_t j = 0; j < s.n; ++j) {
        weight[static_cast<size_t>(i * s.n + j)] +=
            in.from[(token * s.H + h) * s.n + i] * in.to[(token * s.H + h) * s.n + j];
      }
    }
  }
  return weight;
}

template <class T>
void factored_mix(const MixShape& s, const MixInputs<T>& in, T* z) {
  for (int64_t token = 0; token < s.N; ++token) {
    const std::vector<T> weight = pair_weights(s, in, token);
    for (int64_t j = 0; j < s.n; ++j) {
      for (int64_t c = 0; c < s.m; ++c) {
        T sum{0};
        for (int64_t i = 0; i < s.n; ++i) {
          sum += weight[static_cast<size_t>(i * s.n + j)] * in.a[(token * s.n + i) * s.m + c];
        }
        z[(token * s.n + j) * s.m + c] = sum;
      }
    }
  }
}

template <class T>
void factored_mix_backward(const MixShape& s, const FactoredMixBackward<T>& args) {
  zero_unless_accumulating(args.grad_from, s.N * s.H * s.n);
  zero_unless_accumulating(args.grad_to, s.N * s.H * s.n);
  zero_unless_accumulating(args.grad_a, s.N * s.n * s.m);
  for (int64_t token = 0; token < s.N; ++token) {
    const std::vector<T> weight = pair_weights(s, args.in, token);
    for (int64_t i = 0; i < s.n; ++i) {
      for (int64_t j = 0; j < s.n; ++j) {
        T of_weight{0};
        for (int64_t c = 0; c < s.m; ++c) {
          const T grad = args.grad_z[(token * s.n + j) * s.m + c];
          of_weight += grad * args.in.a[(token * s.n + i) * s.m + c];
          if (args.grad_a) {
            args.grad_a.data[(token * s.n + i) * s.m + c] +=
                weight[static_cast<size_t>(i * s.n + j)] * grad;
          }
        }
        for (int64_t h = 0; h < s.H; ++h) {
          const int64_t from = (token * s.H + h) * s.n + i;
          const int64_t to = (token * s.H + h) * s.n + j;
          if (args.grad_from) args.grad_from.data[from] += of_weight * args.in.to[to];
          if (args.grad_to) args.grad_to.data[to] += of_weight * args.in.from[from];
        }
      }
    }
  }
}

}  // namespace sluice::kernels::reference
