#pragma once
// Causal attention in tiles, never holding a T x T matrix.

#include <cstdint>
#include <optional>
#include <span>

#include "autograd/core/tape.h"
#include "autograd/ops/rope.h"

namespace sluice {

/// Rotary positions that queries and keys take on as attention reads them (rope.h).
struct AttentionRope {
  Tensor positions;  // [N] i32, below the table's
  RopeTable table;
  RopeLayout layout = RopeLayout::half_split;
};

struct CausalAttentionOptions {
  /// [G + 1]: token ranges of the document pieces; tokens of different pieces never see each other.
  /// Must live until the backward has run.
  std::span<const int64_t> document_offsets;
  double scale = 1.0;
  /// How many tokens back a token sees, itself included; all when absent.
  std::optional<int64_t> window;
  /// Without positions q and k are used as they are.
  AttentionRope rope = {};
};

/// o[n, h] = sum_j softmax_j(scale q[n, h] . k[j, h / (H / K)]) v[j, ...] over allowed j <= n. q
/// [N, H, P], k and v [N, K, P], H a multiple of K -> [N, H, P]. Saves q, k, v, o and the
/// log-sum-exp [N, H]; with a rope the same as of rope(q) and rope(k). Throws ShapeError, DTypeError.
[[nodiscard]] Tensor causal_attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                                      const CausalAttentionOptions& options);

/// Decoding: the last n tokens of one document attend to a cache. q [n, H, P]; k and v [C, K, P] of
/// which the first `length` rows are filled, the last n of them by these tokens. Equals the last n
/// rows of the full pass. Not recorded.
[[nodiscard]] Tensor cached_attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                                      int64_t length, double scale, std::optional<int64_t> window);

}  // namespace sluice
