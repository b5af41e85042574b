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
  int64_t first = 0;  // the first element of a head that turns
};

/// Chunks of keys that queries see beside their window, counted from their document's first token.
struct AttentionChunks {
  int64_t chunk = 0;  // keys of a chunk; 0: there are none
  int64_t first = 0;  // every query sees this many chunks at the start of its document
  Tensor chosen;      // [N, K, b] i32: chunks chosen for each query and key head; -1 for none
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
  /// [K]: a window for each key head, instead of `window`; empty for none. Lives as the offsets do.
  std::span<const int64_t> windows = {};
  AttentionChunks chunks = {};
};

/// o[n, h] = sum_j softmax_j(scale q[n, h] . k[j, h / (H / K)]) v[j, ...] over allowed j <= n: those
/// in the window of n, and those in its chunks. q [N, H, P], k [N, K, P], v [N, K, V], H a multiple
/// of K -> [N, H, V]. Saves q, k, v, o and the log-sum-exp [N, H]; with a rope the same as of rope(q)
/// and rope(k). The cost counted is that of the allowed pairs, with chunks of at most so many. Throws
/// ShapeError, DTypeError.
[[nodiscard]] Tensor causal_attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                                      const CausalAttentionOptions& options);

struct CachedAttentionOptions {
  int64_t length = 0;  // rows of the cache that are filled
  double scale = 1.0;
  std::optional<int64_t> window;          // as above
  std::span<const int64_t> windows = {};  // as above
  AttentionChunks chunks = {};            // as above; `chosen` is [n, K, b]
};

/// Decoding: the last n tokens of one document attend to a cache. q [n, H, P]; k [C, K, P] and v [C,
/// K, V] of which the first `length` rows are filled, the last n of them by these tokens. Equals the
/// last n rows of the full pass. Not recorded.
[[nodiscard]] Tensor cached_attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                                      const CachedAttentionOptions& options);
/// The same of a cache [C, P] with one key head whose values are the first V columns of its keys ->
/// [n, H, V].
[[nodiscard]] Tensor cached_latent_attention(Tape& tape, const Tensor& q, const Tensor& cache,
                                             int64_t V, const CachedAttentionOptions& options);

}  // namespace sluice
