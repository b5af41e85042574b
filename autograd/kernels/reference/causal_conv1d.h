#pragma once
// causal_conv1d as plain loops in the order of its equations.

#include <cmath>

#include "autograd/kernels/causal_conv1d.h"

namespace sluice::kernels::reference {

template <class T>
T sigmoid(T a) {
  return T{1} / (T{1} + std::exp(-a));
}

/// body(token, channel, tap, source): every tap that reads an input; a negative source is a row of
/// the history, counted from its end.
template <class Body>
void for_each_tap(const CausalConv1dShape& shape, std::span<const int64_t> documents,
                  bool has_history, Body&& body) {
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    for (int64_t t = documents[d]; t < documents[d + 1]; ++t) {
      for (int64_t k = 0; k < shape.K; ++k) {
        const int64_t source = t - shape.K + 1 + k;
        if (source < documents[d] && !(has_history && d == 0)) continue;
        for (int64_t c = 0; c < shape.C; ++c) body(t, c, k, source);
      }
    }
  }
}

template <class T>
void causal_conv1d(const CausalConv1dShape& shape, std::span<const int64_t> documents,
                   const CausalConv1d<T>& args) {
  const auto& [C, K, silu] = shape;
  const int64_t N = documents.empty() ? 0 : documents.back();
  for (int64_t i = 0; i < N * C; ++i) args.y[i] = args.bias == nullptr ? T{0} : args.bias[i % C];
  const T* history_end = args.history == nullptr ? nullptr : args.history + (K - 1) * C;
  for_each_tap(shape, documents, args.history != nullptr,
               [&, C = C, K = K](int64_t t, int64_t c, int64_t k, int64_t source) {
                 const T x = source < 0 ? history_end[source * C + c] : args.x[source * C + c];
                 args.y[t * C + c] += args.weight[c * K + k] * x;
               });
  if (!silu) return;
  for (int64_t i = 0; i < N * C; ++i) args.y[i] *= sigmoid(args.y[i]);
}

/// `slope` is scratch of [N, C].
template <class T>
void causal_conv1d_backward(const CausalConv1dShape& shape, std::span<const int64_t> documents,
                            const CausalConv1dBackward<T>& args, T* slope) {
  const auto& [C, K, silu] = shape;
  const int64_t N = documents.empty() ? 0 : documents.back();
  causal_conv1d<T>({C, K, false}, documents, {args.x, args.weight, args.bias, slope});
  for (int64_t i = 0; i < N * C; ++i) {
    const T s = sigmoid(slope[i]);
    slope[i] = args.grad_y[i] * (silu ? s * (T{1} + slope[i] * (T{1} - s)) : T{1});
  }
  zero_unless_accumulating(args.grad_x, N * C);
  zero_unless_accumulating(args.grad_weight, C * K);
  zero_unless_accumulating(args.grad_bias, C);
  for_each_tap(shape, documents, false,
               [&, C = C, K = K](int64_t t, int64_t c, int64_t k, int64_t source) {
                 const T p = slope[t * C + c];
                 if (args.grad_x) args.grad_x.data[source * C + c] += args.weight[c * K + k] * p;
                 if (args.grad_weight) {
                   args.grad_weight.data[c * K + k] += p * args.x[source * C + c];
                 }
               });
  for (int64_t i = 0; i < N * C; ++i) {
    if (args.grad_bias) args.grad_bias.data[i % C] += slope[i];
  }
}

}  // namespace sluice::kernels::reference
