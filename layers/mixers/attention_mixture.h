#pragma once
// A soft mixture of attention experts: every token uses all of them, weighed by a router.
//
// Zhang et al. 2024, "BAM! Just Like That: Simple and Efficient Parameter Upcycling for Mixture of
// Experts", section 3 [R: normalisation]:
//
//   y = sum_i a_i(x) MHA_i(x),  a = softmax(W_r x)
//
// each expert with heads of its own, or, with share_keys, with queries and outputs of its own on keys
// and values that all share (one cache instead of E). Since outputs add up over heads, this is one
// attention with the heads of all experts, each head's output times its expert's weight.
//
// Heads lie in this order: the experts' one after the other; with share_keys the query heads of a key
// head side by side, those of expert 0 first.
//
// Letters: N tokens, D hidden size, E experts, H query heads of each, P head width.

#include "layers/attention_heads.h"

namespace sluice {

/// `model.attention_mixture` of a recipe; the heads are those of each expert.
struct AttentionMixtureConfig final : AttentionHeadsConfig {
  int64_t num_experts = 4;
  bool share_keys = false;
  std::optional<int64_t> window;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

}  // namespace sluice
