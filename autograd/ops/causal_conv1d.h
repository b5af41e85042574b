#pragma once
// Causal depthwise convolution along the tokens of each document.

#include <cstdint>
#include <span>

#include "autograd/core/tape.h"

namespace sluice {

struct CausalConv1dOptions {
  /// [G + 1]: token ranges of the document pieces; a tap that reaches into another piece reads 0.
  /// Must live until the backward has run.
  std::span<const int64_t> document_offsets;
  bool silu = true;
};

/// y[t, c] = silu(bias[c] + sum_k weight[c, k] x[t - K + 1 + k, c]), or without the SiLU. x [N, C],
/// weight [C, K], bias [C] or undefined for none -> [N, C]. Saves x, weight and bias. Throws
/// ShapeError, DTypeError.
[[nodiscard]] Tensor causal_conv1d(Tape& tape, const Tensor& x, const Tensor& weight,
                                   const Tensor& bias, const CausalConv1dOptions& options);

/// Decoding: x [n, C], the next n tokens of one document, behind `history` [K - 1, C], its last
/// K - 1 inputs (zeros in front of the first), which is brought up to date in place. Equals the rows
/// of the full pass bit for bit. Not recorded.
[[nodiscard]] Tensor causal_conv1d_step(Tape& tape, const Tensor& x, const Tensor& weight,
                                        const Tensor& bias, bool silu, Tensor& history);

}  // namespace sluice
