#pragma once
// Experts of attention: each owns a map of queries and a map of outputs, all share keys and values.
//
// Shen et al. 2023, "ModuleFormer: Modularity Emerges from Mixture-of-Experts", section 3.1. A router
// gives each token k of E experts, with weights g:
//
//   K = W_k x,  V = W_v x                          [A], once for all experts
//   q_e = Wq_e x;  o_e = attention(q_e, K, V)      in heads of width A / n
//   y = sum_e g_e Wo_e o_e
//
// The attention is stick-breaking (kernels/stick_breaking_attention.h), scores times (A / n)^(-1/2),
// without positions. By default the router has a hidden layer and its weights are not divided by
// their sum.
//
// Letters: N tokens, D hidden size, E experts, k experts a token, A attention width, n heads.

#include "layers/routed_layer.h"

namespace sluice {

/// `model.stick_breaking_experts` of a recipe.
struct StickBreakingExpertsConfig final : RoutingConfig {
  int64_t attention_size = 256;
  int64_t num_heads = 8;
  StickBreakingExpertsConfig();
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

}  // namespace sluice
