#pragma once
// The attention of an earlier layer, for later layers that read it.
//
// The probabilities A [n, M] of a head are never held: what is wanted is their product with rows of
// another width (routing probabilities, say), and that is an attention with these rows as values.

#include <cstdint>
#include <optional>
#include <span>

#include "layers/block_state.h"

namespace sluice {

/// Queries and keys as they met: after QK-norm and rotation. H query heads, K key heads of width P.
struct AttentionMap {
  Tensor q;  // [n, H, P]
  /// [M, K, P]: M = n in a pass over whole documents; when decoding M counts all tokens so far, of
  /// which those of q are the last n.
  Tensor k;
  double scale = 1.0;
  std::optional<int64_t> window = {};  // tokens a token sees, itself included; none: all before it
  /// [K]: a window for each key head instead; empty for none. The layer owns them.
  std::span<const int64_t> windows = {};
};

/// An attention layer, seen by the layers behind it.
class AttentionSource {
 public:
  virtual ~AttentionSource() = default;
  /// From now on its passes leave their queries and keys in BlockState::side. Costs their memory
  /// until the last reader's backward where the layer is recomputed; they are kept anyway where not.
  virtual void share() = 0;
  /// Those of its latest pass. share() came before that.
  [[nodiscard]] virtual AttentionMap attention(const BlockState& state) const = 0;
};

/// y[n] = (1 / H) sum over heads h and tokens j of A[h, n, j] rows[j]: rows [M, W] -> [n, W], A
/// causal within documents. Gradients reach rows, q and k. Cost: W / P times that of the attention
/// itself, W rounded up to a multiple of P.
[[nodiscard]] Tensor attend_rows(const ForwardContext& context, const AttentionMap& map,
                                 const Tensor& rows);

}  // namespace sluice
