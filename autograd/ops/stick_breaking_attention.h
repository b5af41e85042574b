#pragma once
// Causal stick-breaking attention in tiles, never holding a T x T matrix.

#include <cstdint>
#include <span>

#include "autograd/core/tape.h"

namespace sluice {

struct StickBreakingOptions {
  /// [G + 1]: token ranges of the document pieces; tokens of different pieces never see each other.
  /// Must live until the backward has run.
  std::span<const int64_t> document_offsets;
  double scale = 1.0;
  /// Query head h reads key head h % K instead of h / (H / K).
  bool heads_alternate = false;
};

/// o[n, h] = sum_{j <= n} A[n, j] v[j], A[n, j] = sigmoid(z[n, j]) prod_{j < l <= n} (1 - sigmoid(z[n,
/// l])), z[n, j] = scale q[n, h] . k[j]: each query takes pieces of a stick of length one, newest key
/// first. q [N, H, P], k [N, K, P], v [N, K, V], H a multiple of K -> [N, H, V]. Saves q, k, v and o.
/// The cost counted is that of all pairs; used-up sticks make it less. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor stick_breaking_attention(Tape& tape, const Tensor& q, const Tensor& k,
                                              const Tensor& v, const StickBreakingOptions& options);

/// Decoding: the last n tokens of one document attend to a cache of which `length` rows are filled,
/// the last n of them by these tokens. q [n, H, P], k [C, K, P], v [C, K, V] -> [n, H, V], equal to
/// the last n rows of the full pass. options.document_offsets is not read. Not recorded.
[[nodiscard]] Tensor cached_stick_breaking_attention(Tape& tape, const Tensor& q, const Tensor& k,
                                                     const Tensor& v, int64_t length,
                                                     const StickBreakingOptions& options);

}  // namespace sluice
