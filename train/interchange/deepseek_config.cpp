#include "train/interchange/deepseek_config.h"

#include <algorithm>

#include "layers/rotary.h"

namespace sluice {
namespace {

std::vector<bool> read_routed_layers(const ConfigReader& config) {
  const int64_t first = config.integer_or("first_k_dense_replace", 0, 0);
  const int64_t every = config.integer_or("moe_layer_freq", 1);
  std::vector<bool> is_routed(static_cast<size_t>(read_num_layers(config)));
  for (size_t i = 0; i < is_routed.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    is_routed[i] = config.has("n_routed_experts") && layer >= first && layer % every == 0;
  }
  return is_routed;
}

ModelJson read_latent_attention(const ConfigReader& config) {
  config.require("attention_bias", false, "attention has no biases");
  config.require("mlp_bias", false, "feed-forwards have no biases");
  config.require("rope_interleave", true, "the rotated part is interleaved");
  ModelJson latent = {{"num_heads", config.integer("num_attention_heads")},
                      {"kv_lora_rank", config.integer_or("kv_lora_rank", 512)},
                      {"qk_nope_head_dim", config.integer_or("qk_nope_head_dim", 128)},
                      {"qk_rope_head_dim", config.integer_or("qk_rope_head_dim", 64)},
                      {"v_head_dim", config.integer_or("v_head_dim", 128)}};
  if (const auto rank = config.optional_integer("q_lora_rank")) latent["q_lora_rank"] = *rank;
  read_rotation(config, latent);
  const auto scaling = rope_scaling_of(config);
  if (!scaling) return latent;
  const double all = scaling->number_or("mscale_all_dim", 0.0);
  if (latent["rope_scaling"]["type"] != "yarn") {
    if (all != 0.0) scaling->refuse("mscale_all_dim", "allowed none but with yarn");
    return latent;
  }
  // Both give the scores a factor and leave the angles' cosines as they are.
  if (!(all > 0.0)) scaling->refuse("mscale_all_dim", "allowed a number above 0");
  if (scaling->number_or("mscale", 0.0) != all) {
    scaling->refuse("mscale", fmt::format("allowed what mscale_all_dim is ({})", all));
  }
  latent["mscale_all_dim"] = all;
  return latent;
}

}  // namespace

ModelJson read_deepseek(const ConfigReader& config) {
  require_silu(config);
  const std::vector<bool> is_routed = read_routed_layers(config);
  ModelJson model = {{"pattern", pattern_of('C', is_routed)}};
  read_widths(config, model);
  model["latent_attention"] = read_latent_attention(config);
  if (std::ranges::find(is_routed, false) != is_routed.end()) {
    read_feed_forward(config, false, model);
  }
  if (std::ranges::find(is_routed, true) != is_routed.end()) {
    const int64_t width = config.integer("moe_intermediate_size");
    model["experts"] = {{"num_experts", config.integer("n_routed_experts")},
                        {"top_k", config.integer("num_experts_per_tok")},
                        {"intermediate_size", width}};
    if (const auto shared = config.integer_or("n_shared_experts", 0, 0); shared > 0) {
      model["experts"]["shared"] = {{"num_experts", shared}, {"intermediate_size", width}};
    }
  }
  return model;
}

RouterFacts write_deepseek(const Recipe& recipe, ModelJson& config) {
  const ModelConfig& model = recipe.model;
  const Decoder decoder = decoder_of(model, "latent_attention");
  const auto& latent = dynamic_cast<const LatentAttentionConfig&>(*decoder.mixer);
  SLUICE_CHECK(ConfigError, decoder.experts != nullptr, "the model has no experts, allowed some");
  SLUICE_CHECK(ConfigError, std::ranges::is_sorted(decoder.is_routed),
               "a layer with experts stands before a dense one, allowed dense layers first");
  SLUICE_CHECK(ConfigError, latent.norm_eps == 1e-6,
               "model.latent_attention.norm_eps is {}, allowed 1e-6", latent.norm_eps);
  SLUICE_CHECK(ConfigError, latent.qk_rope_head_dim > 0,
               "model.latent_attention.qk_rope_head_dim is 0, allowed 2 or more");
  if (decoder.dense != nullptr) require_swiglu(*decoder.dense);
  const ExpertsConfig& experts = *decoder.experts;
  write_widths(model, decoder, config);
  config["num_attention_heads"] = latent.num_heads;
  config["num_key_value_heads"] = latent.num_heads;
  config["q_lora_rank"] = latent.q_lora_rank ? ModelJson(*latent.q_lora_rank) : ModelJson();
  config["kv_lora_rank"] = latent.kv_lora_rank;
  config["qk_nope_head_dim"] = latent.qk_nope_head_dim;
  config["qk_rope_head_dim"] = latent.qk_rope_head_dim;
  config["v_head_dim"] = latent.v_head_dim;
  config["attention_bias"] = false;
  config["rope_interleave"] = true;
  write_rotation(latent.rope_theta, latent.rope_scaling.get(), latent.max_position_embeddings,
                 config);
  if (config["rope_scaling"].is_object() && config["rope_scaling"]["rope_type"] == "yarn") {
    SLUICE_CHECK(ConfigError, latent.mscale_all_dim > 0.0,
                 "model.latent_attention.mscale_all_dim is 0, allowed a number above 0 with yarn");
    config["rope_scaling"]["type"] = "yarn";
    config["rope_scaling"]["mscale"] = latent.mscale_all_dim;
    config["rope_scaling"]["mscale_all_dim"] = latent.mscale_all_dim;
  }
  config["intermediate_size"] =
      decoder.dense != nullptr ? decoder.dense->intermediate_size : experts.intermediate_size;
  config["first_k_dense_replace"] = std::ranges::count(decoder.is_routed, false);
  config["moe_layer_freq"] = 1;
  config["n_routed_experts"] = experts.num_experts;
  config["moe_intermediate_size"] = experts.intermediate_size;
  const SharedExpertsConfig* shared = shared_of(experts);
  SLUICE_CHECK(ConfigError,
               shared != nullptr && shared->combine == SharedExpertsConfig::Combine::sum,
               "model.experts.shared is none or combined otherwise than by sum, allowed "
               "combine: sum");
  SLUICE_CHECK(ConfigError, shared->intermediate_size == experts.intermediate_size,
               "model.experts.shared.intermediate_size is {}, allowed {} (that of the routed)",
               shared->intermediate_size, experts.intermediate_size);
  config["n_shared_experts"] = shared->num_experts;
  const RouterFacts router = router_of(experts);
  config["num_experts_per_tok"] = router.top_k;
  config["aux_loss_alpha"] = auxiliary_coefficient(recipe);
  return router;
}

}  // namespace sluice
