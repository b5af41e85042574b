// OLMoE (Muennighoff et al. 2024, arXiv 2409.02060): RMSNorm of whole queries and keys, experts in
// every layer.

#include "train/interchange/decoder_config.h"
#include "train/interchange/decoder_names.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

constexpr auto kRows = joined(kDecoderRows, kAttentionRows, kExpertRows);
constexpr AttentionForm kAttention = {.qk_norm = "full"};

ModelJson read(const ConfigReader& config) {
  require_silu(config);
  config.require("clip_qkv", nullptr, "queries, keys and values are not clipped");
  config.require("attention_bias", false, "attention has no biases");
  const auto layers = static_cast<size_t>(read_num_layers(config));
  ModelJson model = {{"pattern", pattern_of('A', std::vector<bool>(layers, true))}};
  read_widths(config, model, 1e-5);
  read_attention(config, kAttention, model);
  model["experts"] = {{"num_experts", config.integer_or("num_experts", 64)},
                      {"top_k", config.integer_or("num_experts_per_tok", 8)},
                      {"intermediate_size", config.integer("intermediate_size")},
                      {"router", softmax_router(config.boolean_or("norm_topk_prob", false))}};
  return {{"model", model}, {"balance", auxiliary_loss(config, "router_aux_loss_coef", 0.01)}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const Decoder decoder = decoder_of(recipe.model, "attention");
  require_routed(decoder);
  const RouterFacts router = softmax_router_of(*decoder.experts);
  require_no_shared_experts(*decoder.experts);
  write_widths(recipe.model, decoder, config);
  config["intermediate_size"] = decoder.experts->intermediate_size;
  config["num_experts"] = decoder.experts->num_experts;
  config["num_experts_per_tok"] = router.top_k;
  config["norm_topk_prob"] = router.renormalises;
  config["router_aux_loss_coef"] = auxiliary_coefficient(recipe);
  config["attention_bias"] = false;
  config["clip_qkv"] = nullptr;
  const auto& attention = dynamic_cast<const AttentionConfig&>(*decoder.mixer);
  write_attention(recipe.model, attention, kAttention, config);
  const int64_t width = attention.num_heads * config["head_dim"].get<int64_t>();
  SLUICE_CHECK(ConfigError, width == recipe.model.hidden_size,
               "model.attention has heads of {} elements together, allowed {} (hidden_size)", width,
               recipe.model.hidden_size);
}

}  // namespace

const Family olmoe_family = {
    .name = "olmoe",
    .architecture = "OlmoeForCausalLM",
    .names = {kRows, "model.", kIgnoredBuffers},
    .read = read,
    .write = write,
};

}  // namespace sluice
