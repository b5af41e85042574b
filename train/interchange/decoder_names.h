#pragma once
// Rows that decoder families have word for word in common, and how a family's table is put together:
//
//   constexpr auto kRows = joined(kDecoderRows, kAttentionRows, kSwigluRows);

#include <algorithm>
#include <array>

#include "train/interchange/name_map.h"

namespace sluice {

template <size_t... sizes>
[[nodiscard]] constexpr auto joined(const std::array<NameRow, sizes>&... parts) {
  std::array<NameRow, (sizes + ...)> all{};
  auto place = all.begin();
  ((place = std::copy(parts.begin(), parts.end(), place)), ...);
  return all;
}

/// Embedding, head and norms.
inline constexpr auto kDecoderRows = std::to_array<NameRow>({
    {"embedding.weight", "model.embed_tokens.weight"},
    {"final_norm.weight", "model.norm.weight"},
    {"head", "lm_head.weight"},
    {"layers.{2i}.norm.weight", "model.layers.{i}.input_layernorm.weight"},
    {"layers.{2i+1}.norm.weight", "model.layers.{i}.post_attention_layernorm.weight"},
});

inline constexpr auto kAttentionRows = std::to_array<NameRow>({
    {"layers.{2i}.attention.w_q", "model.layers.{i}.self_attn.q_proj.weight", Form::query},
    {"layers.{2i}.attention.w_k", "model.layers.{i}.self_attn.k_proj.weight", Form::key},
    {"layers.{2i}.attention.w_v", "model.layers.{i}.self_attn.v_proj.weight"},
    {"layers.{2i}.attention.w_o", "model.layers.{i}.self_attn.o_proj.weight"},
    {"layers.{2i}.attention.b_q", "model.layers.{i}.self_attn.q_proj.bias", Form::query},
    {"layers.{2i}.attention.b_k", "model.layers.{i}.self_attn.k_proj.bias", Form::key},
    {"layers.{2i}.attention.b_v", "model.layers.{i}.self_attn.v_proj.bias"},
    {"layers.{2i}.attention.b_o", "model.layers.{i}.self_attn.o_proj.bias"},
    {"layers.{2i}.attention.q_norm", "model.layers.{i}.self_attn.q_norm.weight", Form::query},
    {"layers.{2i}.attention.k_norm", "model.layers.{i}.self_attn.k_norm.weight", Form::key},
});

inline constexpr auto kSwigluRows = std::to_array<NameRow>({
    {"layers.{2i+1}.feed_forward.w_gate", "model.layers.{i}.mlp.gate_proj.weight"},
    {"layers.{2i+1}.feed_forward.w_up", "model.layers.{i}.mlp.up_proj.weight"},
    {"layers.{2i+1}.feed_forward.w_down", "model.layers.{i}.mlp.down_proj.weight"},
    {"layers.{2i+1}.feed_forward.b_gate", "model.layers.{i}.mlp.gate_proj.bias"},
    {"layers.{2i+1}.feed_forward.b_up", "model.layers.{i}.mlp.up_proj.bias"},
    {"layers.{2i+1}.feed_forward.b_down", "model.layers.{i}.mlp.down_proj.bias"},
});

/// Routed experts, single or, as transformers 5 keeps them in memory, all in one.
inline constexpr auto kExpertRows = std::to_array<NameRow>({
    {"layers.{2i+1}.router.weight", "model.layers.{i}.mlp.gate.weight"},
    {"layers.{2i+1}.experts.w_gate", "model.layers.{i}.mlp.experts.{e}.gate_proj.weight"},
    {"layers.{2i+1}.experts.w_up", "model.layers.{i}.mlp.experts.{e}.up_proj.weight"},
    {"layers.{2i+1}.experts.w_down", "model.layers.{i}.mlp.experts.{e}.down_proj.weight"},
    {"layers.{2i+1}.experts.w_gate", "model.layers.{i}.mlp.experts.gate_up_proj",
     Form::all_experts},
    {"layers.{2i+1}.experts.w_up", "model.layers.{i}.mlp.experts.gate_up_proj", Form::all_experts},
    {"layers.{2i+1}.experts.w_down", "model.layers.{i}.mlp.experts.down_proj", Form::all_experts},
});

inline constexpr auto kIgnoredBuffers = std::to_array<std::string_view>({"*rotary_emb.inv_freq"});

}  // namespace sluice
