#pragma once
// Selective attention: heads are experts, and a head attends only among the tokens that chose it.
//
// Yang et al. 2025, "Union of Experts", SMHA. Each token chooses k of H heads (half of them by
// default). A head's tokens form a sequence of their own, with positions counted anew, on which it
// attends causally; a head's outputs go back to its tokens:
//
//   y = sum over the chosen heads h of g_h W_o,h attention_h(x's tokens that chose h)
//
// The causal form, ours: a head takes exactly the tokens that chose it. The published one divides
// gates by their sum over the batch and fills every head up to the largest count with tokens that
// rank next, both of which look at later tokens. Without gate_output the weights g are 1, as in the
// released code, and nothing teaches the router but what balances it. All heads chosen without gates
// are multi-head attention, exactly.
//
// Letters: N tokens, D hidden size, H heads, k heads a token, P head width, R = N k rows.

#include "layers/routed_layer.h"

namespace sluice {

/// `model.selective_attention` of a recipe.
struct SelectiveAttentionConfig final : RoutingConfig {
  std::optional<int64_t> head_dim;  // auto: hidden_size / num_heads
  std::optional<double> rope_theta = 10000.0;
  int64_t max_position_embeddings = 8192;
  bool gate_output = true;
  SelectiveAttentionConfig();
  void fields(FieldVisitor& v) override;
};

}  // namespace sluice
