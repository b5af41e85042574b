#pragma once
// What DeepSeek-V2 and V3 have in common: latent attention, dense layers first, shared experts.

#include "train/interchange/decoder_config.h"
#include "train/interchange/decoder_names.h"

namespace sluice {

inline constexpr auto kDeepseekRows = joined(
    kDecoderRows, kSwigluRows, kExpertRows,
    std::to_array<NameRow>({
        {"layers.{2i}.latent_attention.w_q", "model.layers.{i}.self_attn.q_proj.weight"},
        {"layers.{2i}.latent_attention.w_q_a", "model.layers.{i}.self_attn.q_a_proj.weight"},
        {"layers.{2i}.latent_attention.q_a_norm",
         "model.layers.{i}.self_attn.q_a_layernorm.weight"},
        {"layers.{2i}.latent_attention.w_q_b", "model.layers.{i}.self_attn.q_b_proj.weight"},
        {"layers.{2i}.latent_attention.w_kv_a",
         "model.layers.{i}.self_attn.kv_a_proj_with_mqa.weight"},
        {"layers.{2i}.latent_attention.kv_a_norm",
         "model.layers.{i}.self_attn.kv_a_layernorm.weight"},
        {"layers.{2i}.latent_attention.w_kv_b", "model.layers.{i}.self_attn.kv_b_proj.weight"},
        {"layers.{2i}.latent_attention.w_o", "model.layers.{i}.self_attn.o_proj.weight"},
        {"layers.{2i+1}.shared_experts.w_gate",
         "model.layers.{i}.mlp.shared_experts.gate_proj.weight"},
        {"layers.{2i+1}.shared_experts.w_up", "model.layers.{i}.mlp.shared_experts.up_proj.weight"},
        {"layers.{2i+1}.shared_experts.w_down",
         "model.layers.{i}.mlp.shared_experts.down_proj.weight"},
    }));

/// The model section but for the router of the experts.
[[nodiscard]] ModelJson read_deepseek(const ConfigReader& config);
/// Everything but the keys of the router; what the router is.
[[nodiscard]] RouterFacts write_deepseek(const Recipe& recipe, ModelJson& config);

}  // namespace sluice
