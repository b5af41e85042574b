// Qwen2-MoE (Qwen1.5-MoE; Yang et al. 2024, arXiv 2407.10671): a shared expert under a gate of its
// own, y = routed + sigmoid(x w^T) shared.

#include "train/interchange/decoder_names.h"
#include "train/interchange/family.h"
#include "train/interchange/qwen_moe_config.h"

namespace sluice {
namespace {

constexpr auto kRows = joined(
    kDecoderRows, kAttentionRows, kSwigluRows, kExpertRows,
    std::to_array<NameRow>({
        {"layers.{2i+1}.shared_experts.w_gate",
         "model.layers.{i}.mlp.shared_expert.gate_proj.weight"},
        {"layers.{2i+1}.shared_experts.w_up", "model.layers.{i}.mlp.shared_expert.up_proj.weight"},
        {"layers.{2i+1}.shared_experts.w_down",
         "model.layers.{i}.mlp.shared_expert.down_proj.weight"},
        {"layers.{2i+1}.w_shared_gate", "model.layers.{i}.mlp.shared_expert_gate.weight"},
    }));

ModelJson read(const ConfigReader& config) {
  ModelJson model = read_qwen_moe(config, 60, 4, 1408);
  const bool bias = config.boolean_or("qkv_bias", true);
  read_attention(config, {.bias = bias ? "qkv" : "none"}, model);
  if (!model.contains("experts")) return {{"model", model}};
  model["experts"]["shared"] = {
      {"num_experts", 1},
      {"intermediate_size", config.integer_or("shared_expert_intermediate_size", 5632)},
      {"combine", "gated"}};
  return {{"model", model}, {"balance", auxiliary_loss(config, "router_aux_loss_coef", 0.001)}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const Decoder decoder = decoder_of(recipe.model, "attention");
  write_qwen_moe(recipe, decoder, config);
  const SharedExpertsConfig* shared = shared_of(*decoder.experts);
  SLUICE_CHECK(ConfigError,
               shared != nullptr && shared->combine == SharedExpertsConfig::Combine::gated,
               "model.experts.shared is none or not combined by a gate, allowed combine: gated");
  config["shared_expert_intermediate_size"] = shared->num_experts * shared->intermediate_size;
  const auto& attention = dynamic_cast<const AttentionConfig&>(*decoder.mixer);
  const bool bias = attention.bias == "qkv";
  config["qkv_bias"] = bias;
  write_attention(recipe.model, attention, {.bias = bias ? "qkv" : "none"}, config);
}

}  // namespace

const Family qwen2_moe_family = {
    .name = "qwen2_moe",
    .architecture = "Qwen2MoeForCausalLM",
    .names = {kRows, "model.", kIgnoredBuffers},
    .read = read,
    .write = write,
};

}  // namespace sluice
