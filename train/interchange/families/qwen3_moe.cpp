// Qwen3-MoE (Yang et al. 2025, arXiv 2505.09388): RMSNorm of every head's queries and keys, no shared
// expert.

#include "train/interchange/decoder_names.h"
#include "train/interchange/family.h"
#include "train/interchange/qwen_moe_config.h"

namespace sluice {
namespace {

constexpr auto kRows = joined(kDecoderRows, kAttentionRows, kSwigluRows, kExpertRows);

ModelJson read(const ConfigReader& config) {
  ModelJson model = read_qwen_moe(config, 128, 8, 768);
  const bool bias = config.boolean_or("attention_bias", false);
  read_attention(config, {.bias = bias ? "all" : "none", .qk_norm = "per_head"}, model);
  if (!model.contains("experts")) return {{"model", model}};
  return {{"model", model}, {"balance", auxiliary_loss(config, "router_aux_loss_coef", 0.001)}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const Decoder decoder = decoder_of(recipe.model, "attention");
  write_qwen_moe(recipe, decoder, config);
  require_no_shared_experts(*decoder.experts);
  const auto& attention = dynamic_cast<const AttentionConfig&>(*decoder.mixer);
  const bool bias = attention.bias == "all";
  config["attention_bias"] = bias;
  write_attention(recipe.model, attention, {.bias = bias ? "all" : "none", .qk_norm = "per_head"},
                  config);
}

}  // namespace

const Family qwen3_moe_family = {
    .name = "qwen3_moe",
    .architecture = "Qwen3MoeForCausalLM",
    .names = {kRows, "model.", kIgnoredBuffers},
    .read = read,
    .write = write,
};

}  // namespace sluice
