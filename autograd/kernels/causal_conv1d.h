#pragma once
// Causal depthwise convolution along the tokens of each document, with an optional SiLU (Gu and Dao
// 2023, "Mamba", section 3.4; the short convolution of Mamba-2, gated delta rules and others).
//
//   pre[t, c] = bias[c] + sum_{k < K} weight[c, k] x[t - K + 1 + k, c],   y = silu(pre) or pre
//
// weight[c, K - 1] multiplies the token itself. A tap that reaches in front of the document reads 0,
// so every token's values depend on its own document only, bit for bit; in decoding it reads the
// history, the document's last K - 1 inputs.
//
// Letters: N tokens, C channels, K taps.

#include <cstdint>
#include <span>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

struct CausalConv1dShape {
  int64_t C;
  int64_t K;  // >= 1
  bool silu;
};

template <class T>
struct CausalConv1d {
  const T* x;                  // [N, C]
  const T* weight;             // [C, K]
  const T* bias;               // [C]; null for none
  T* y;                        // [N, C]
  const T* history = nullptr;  // [K - 1, C]: what lies in front of the first document; null: zeros
};

/// `documents` [G + 1]: document g has tokens documents[g] .. documents[g + 1] - 1, from 0 on.
/// Parallel over tokens.
template <class T>
void causal_conv1d(const CausalConv1dShape& shape, std::span<const int64_t> documents,
                   const CausalConv1d<T>& args);

/// history [K - 1, C] <- the last K - 1 rows of history and the n rows of x behind each other.
template <class T>
void advance_history(const CausalConv1dShape& shape, int64_t n, const T* x, T* history);

template <class T>
struct CausalConv1dBackward {
  const T* x;               // [N, C]
  const T* weight;          // [C, K]
  const T* bias;            // [C]; null for none
  const T* grad_y;          // [N, C]
  Gradient<T> grad_x;       // [N, C]; any of them may be unwanted
  Gradient<T> grad_weight;  // [C, K]
  Gradient<T> grad_bias;    // [C]
};

/// With p = grad_y silu'(pre), pre computed again:  grad_x[t] = sum_k weight[k] p[t + K - 1 - k],
/// grad_weight[k] = sum_t p[t] x[t - K + 1 + k],  grad_bias = sum_t p[t].
template <class T>
void causal_conv1d_backward(const CausalConv1dShape& shape, std::span<const int64_t> documents,
                            const CausalConv1dBackward<T>& args);

}  // namespace sluice::kernels
