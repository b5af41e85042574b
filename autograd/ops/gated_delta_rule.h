#pragma once
// Memories of matrices, written by keys and read by queries (kernels/gated_delta_rule.h has the
// equations, the chunks and the backward).

#include <cstdint>
#include <span>

#include "autograd/core/tape.h"

namespace sluice {

/// What tokens write and read. Per head: q and k [N, H, K], v [N, H, V], and, each may be undefined,
/// log_decay [N, H] (none: nothing decays) and beta [N, H] (none: 1).
struct MemoryTokens {
  Tensor q;
  Tensor k;
  Tensor v;
  Tensor log_decay;
  Tensor beta;
};

struct MemoryScanOptions {
  /// [G + 1]: token ranges that have a memory each, empty at their start. Must live until the backward
  /// has run.
  std::span<const int64_t> offsets;
  double scale = 1.0;
};

/// S_t = e^g_t S_{t-1} + beta_t k_t (x) (v_t - e^g_t S_{t-1}^T k_t), o_t = scale S_t^T q_t
/// -> [N, H, V]. Saves q, k, log_decay, beta, what each token wrote [N, H, V], and the memory at
/// every 64th token of a range. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor gated_delta_rule(Tape& tape, const MemoryTokens& tokens,
                                      const MemoryScanOptions& options);

/// S_t = e^g_t S_{t-1} + beta_t k_t (x) v_t, o_t = scale S_t^T q_t. Saves the inputs and the memory
/// at every 64th token of a range.
[[nodiscard]] Tensor linear_attention_scan(Tape& tape, const MemoryTokens& tokens,
                                           const MemoryScanOptions& options);

/// Decoding: the next n tokens of one sequence, whose `memory` [H, K, V] they read and change. Same
/// numbers as the two above, to rounding; never records.
[[nodiscard]] Tensor advance_gated_delta_rule(Tape& tape, const MemoryTokens& tokens, double scale,
                                              const Tensor& memory);
[[nodiscard]] Tensor advance_linear_attention(Tape& tape, const MemoryTokens& tokens, double scale,
                                              const Tensor& memory);

}  // namespace sluice
