#pragma once
// Sparse global attention: besides its window, a token attends to the first chunks of its document
// and to the earlier chunks that suit its own best; softmax runs over the union, exactly.
//
// The Hydra proposal's attention between state-space layers [R]: chunks of 64 tokens, ranked by the
// product of a mean query and a mean key, over complete earlier chunks. Ours: the mean query is that
// of the token's own chunk up to the token (the proposal's, of the whole chunk, would look ahead), of
// the query heads that share a key head, and both are taken after rotation. Tiles that no query of a
// panel sees are skipped, so the cost grows with the length by the ranking alone, 1 / (2 chunk_size)
// of full attention's scores.
//
// With an output gate (output_gate.h) the layer can be added to a trained backbone.

#include "layers/attention_heads.h"
#include "layers/output_gate.h"

namespace sluice {

/// `model.sparse_attention` of a recipe.
struct SparseAttentionConfig final : AttentionHeadsConfig {
  int64_t window = 128;
  int64_t chunk_size = 64;
  int64_t first_chunks = 1;
  int64_t chosen_chunks = 4;
  OutputGateConfig gate;
  void fields(FieldVisitor& v) override;
};

}  // namespace sluice
