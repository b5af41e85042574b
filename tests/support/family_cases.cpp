#include "tests/support/family_cases.h"

namespace sluice::testing {

std::vector<FamilyCase> family_cases() {
  return {
      {"Llama", "llama", R"(
model: {pattern: "(AF)x2", hidden_size: 16, tie_embeddings: true,
        attention: {num_heads: 4, num_kv_heads: 2}, feed_forward: {intermediate_size: 24}}
)"},
      {"LlamaWithEveryOption", "llama", R"(
model: {pattern: "AFAFAF", hidden_size: 16, tie_embeddings: false, vocab_size: 300,
        norm: {eps: 3.0e-6},
        attention: {num_heads: 2, head_dim: 6, bias: all, rope_theta: 500000,
                    max_position_embeddings: 64,
                    rope_scaling: {type: llama3, factor: 8, original_max_position_embeddings: 16}},
        feed_forward: {intermediate_size: 24, bias: true}}
)"},
      {"Mistral", "mistral", R"(
model: {pattern: "(AF)x2", hidden_size: 16, tie_embeddings: false,
        attention: {num_heads: 4, num_kv_heads: 2, head_dim: 6, window: 5},
        feed_forward: {intermediate_size: 24}}
)"},
      {"Qwen2", "qwen2", R"(
model: {pattern: "(AF)x2", hidden_size: 16, attention: {num_heads: 4, num_kv_heads: 2, bias: qkv},
        feed_forward: {intermediate_size: 24}}
)"},
      {"Qwen3", "qwen3", R"(
model: {pattern: "(AF)x2", hidden_size: 16,
        attention: {num_heads: 4, num_kv_heads: 2, head_dim: 8, qk_norm: per_head},
        feed_forward: {intermediate_size: 24}}
)"},
      {"Mixtral", "mixtral", R"(
model: {pattern: "(AE)x2", hidden_size: 16, attention: {num_heads: 4, num_kv_heads: 2, window: 5},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none}}
balance: {type: aux_loss, coefficient: 1.0e-3, fractions: tokens}
)"},
      {"Olmoe", "olmoe", R"(
model: {pattern: "(AE)x2", hidden_size: 16,
        attention: {num_heads: 4, num_kv_heads: 2, qk_norm: full},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none,
                  router: {type: top_k, weights: as_is}}}
balance: {type: none}
)"},
      {"Qwen2Moe", "qwen2_moe", R"(
model: {pattern: "(AE)x1(AF)x1(AE)x1", hidden_size: 16,
        attention: {num_heads: 4, num_kv_heads: 2, bias: qkv},
        feed_forward: {intermediate_size: 24},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12,
                  shared: {num_experts: 1, intermediate_size: 20, combine: gated},
                  router: {type: top_k, weights: as_is}}}
balance: {type: aux_loss, coefficient: 1.0e-3, fractions: tokens}
)"},
      {"Qwen3Moe", "qwen3_moe", R"(
model: {pattern: "(AF)x1(AE)x2", hidden_size: 16,
        attention: {num_heads: 4, num_kv_heads: 2, head_dim: 8, qk_norm: per_head},
        feed_forward: {intermediate_size: 24},
        experts: {num_experts: 4, top_k: 2, intermediate_size: 12, shared: none}}
balance: {type: aux_loss, coefficient: 1.0e-3, fractions: tokens}
)"},
      {"DeepseekV2", "deepseek_v2", R"(
model: {pattern: "(CF)x1(CE)x2", hidden_size: 16,
        latent_attention: {num_heads: 2, kv_lora_rank: 8, qk_nope_head_dim: 4, qk_rope_head_dim: 4,
                           v_head_dim: 6, mscale_all_dim: 0.7,
                           rope_scaling: {type: yarn, factor: 4,
                                          original_max_position_embeddings: 16}},
        feed_forward: {intermediate_size: 24},
        experts: {num_experts: 8, top_k: 2, intermediate_size: 12,
                  shared: {num_experts: 2, intermediate_size: 12},
                  router: {type: node_limited, weights: as_is, scale: 16, n_group: 4,
                           topk_group: 2, group_score: max}}}
balance: {type: aux_loss, coefficient: 1.0e-3, fractions: tokens}
)"},
      {"DeepseekV3", "deepseek_v3", R"(
model: {pattern: "(CF)x1(CE)x2", hidden_size: 16,
        latent_attention: {num_heads: 2, q_lora_rank: 6, kv_lora_rank: 8, qk_nope_head_dim: 4,
                           qk_rope_head_dim: 4, v_head_dim: 6},
        feed_forward: {intermediate_size: 24},
        experts: {num_experts: 8, top_k: 2, intermediate_size: 12,
                  shared: {num_experts: 1, intermediate_size: 12},
                  router: {type: node_limited, scores: sigmoid, scale: 2.5, n_group: 4,
                           topk_group: 2}}}
balance: {type: loss_free_bias}
)"},
      {"Gpt2", "gpt2", R"(
model: {pattern: "(AF)x2", hidden_size: 16, learned_positions: 40, norm: {type: layer_norm},
        init: {residual: gpt2},
        attention: {num_heads: 4, rope_theta: none, bias: all},
        feed_forward: {intermediate_size: 40, activation: gelu_tanh, bias: true}}
)"},
      {"Mamba2", "mamba2", R"(
model: {pattern: "Mx3", hidden_size: 16, tie_embeddings: false,
        mamba2: {head_dim: 8, num_groups: 2, state_size: 6, conv_kernel: 3,
                 time_step_limit: [0.001, 0.5]}}
)"},
  };
}

}  // namespace sluice::testing
