#include "train/interchange/qwen_moe_config.h"

#include <algorithm>

namespace sluice {

std::vector<bool> read_qwen_routed_layers(const ConfigReader& config) {
  const int64_t step = config.integer_or("decoder_sparse_step", 1);
  const std::vector<int64_t> dense = config.integers_or_none("mlp_only_layers");
  std::vector<bool> is_routed(static_cast<size_t>(read_num_layers(config)));
  for (size_t i = 0; i < is_routed.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    is_routed[i] = (layer + 1) % step == 0 && std::ranges::find(dense, layer) == dense.end();
  }
  return is_routed;
}

ModelJson read_qwen_moe(const ConfigReader& config, int64_t num_experts, int64_t top_k,
                        int64_t width) {
  require_silu(config);
  config.require("use_sliding_window", false, "all layers see all tokens");
  const std::vector<bool> is_routed = read_qwen_routed_layers(config);
  ModelJson model = {{"pattern", pattern_of('A', is_routed)}};
  read_widths(config, model);
  if (std::ranges::find(is_routed, false) != is_routed.end()) {
    read_feed_forward(config, false, model);
  }
  if (std::ranges::find(is_routed, true) != is_routed.end()) {
    // transformers 5 writes qwen3_moe's under another name.
    num_experts = config.integer_or("num_local_experts", num_experts);
    model["experts"] = {{"num_experts", config.integer_or("num_experts", num_experts)},
                        {"top_k", config.integer_or("num_experts_per_tok", top_k)},
                        {"intermediate_size", config.integer_or("moe_intermediate_size", width)},
                        {"router", softmax_router(config.boolean_or("norm_topk_prob", false))}};
  }
  return model;
}

void write_qwen_moe(const Recipe& recipe, const Decoder& decoder, ModelJson& config) {
  SLUICE_CHECK(ConfigError, decoder.experts != nullptr, "the model has no experts, allowed some");
  const RouterFacts router = softmax_router_of(*decoder.experts);
  if (decoder.dense != nullptr) require_swiglu(*decoder.dense);
  write_widths(recipe.model, decoder, config);
  // A model without dense layers has no use for it, but the key must be there.
  config["intermediate_size"] = decoder.dense != nullptr ? decoder.dense->intermediate_size
                                                         : decoder.experts->intermediate_size;
  config["num_experts"] = decoder.experts->num_experts;
  config["num_experts_per_tok"] = router.top_k;
  config["moe_intermediate_size"] = decoder.experts->intermediate_size;
  config["norm_topk_prob"] = router.renormalises;
  config["decoder_sparse_step"] = 1;
  ModelJson dense_layers = ModelJson::array();
  for (size_t i = 0; i < decoder.is_routed.size(); ++i) {
    if (!decoder.is_routed[i]) dense_layers.push_back(i);
  }
  config["mlp_only_layers"] = std::move(dense_layers);
  config["router_aux_loss_coef"] = auxiliary_coefficient(recipe);
  config["use_sliding_window"] = false;
}

}  // namespace sluice
