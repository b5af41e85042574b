// Mixtral (Jiang et al. 2024, arXiv 2401.04088): experts in every layer, weights renormalised over the
// chosen ones.

#include "train/interchange/decoder_config.h"
#include "train/interchange/decoder_names.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

constexpr auto kRows = joined(
    kDecoderRows, kAttentionRows,
    std::to_array<NameRow>({
        {"layers.{2i+1}.router.weight", "model.layers.{i}.block_sparse_moe.gate.weight"},
        {"layers.{2i+1}.experts.w_gate", "model.layers.{i}.block_sparse_moe.experts.{e}.w1.weight"},
        {"layers.{2i+1}.experts.w_up", "model.layers.{i}.block_sparse_moe.experts.{e}.w3.weight"},
        {"layers.{2i+1}.experts.w_down", "model.layers.{i}.block_sparse_moe.experts.{e}.w2.weight"},
    }),
    kExpertRows);  // the names that transformers 5 has in memory

constexpr AttentionForm kAttention = {.allows_window = true, .rope_theta = 1e6};

ModelJson read(const ConfigReader& config) {
  require_silu(config);
  const auto layers = static_cast<size_t>(read_num_layers(config));
  ModelJson model = {{"pattern", pattern_of('A', std::vector<bool>(layers, true))}};
  read_widths(config, model, 1e-5);
  read_attention(config, kAttention, model);
  model["experts"] = {{"num_experts", config.integer_or("num_local_experts", 8)},
                      {"top_k", config.integer_or("num_experts_per_tok", 2)},
                      {"intermediate_size", config.integer("intermediate_size")},
                      {"router", softmax_router(true)}};
  model["experts"]["router"]["jitter"] = config.number_or("router_jitter_noise", 0.0);
  return {{"model", model}, {"balance", auxiliary_loss(config, "router_aux_loss_coef", 0.001)}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const Decoder decoder = decoder_of(recipe.model, "attention");
  require_routed(decoder);
  const RouterFacts router = softmax_router_of(*decoder.experts);
  require_no_shared_experts(*decoder.experts);
  SLUICE_CHECK(ConfigError, router.renormalises,
               "model.experts.router.weights is as_is, allowed renormalise or softmax_after");
  write_widths(recipe.model, decoder, config);
  config["intermediate_size"] = decoder.experts->intermediate_size;
  config["num_local_experts"] = decoder.experts->num_experts;
  config["num_experts_per_tok"] = router.top_k;
  config["router_aux_loss_coef"] = auxiliary_coefficient(recipe);
  const Scheduled& jitter = router.config->jitter;  // a schedule of it belongs to its own run
  config["router_jitter_noise"] = jitter.is_constant() ? jitter.constant() : 0.0;
  write_attention(recipe.model, dynamic_cast<const AttentionConfig&>(*decoder.mixer), kAttention,
                  config);
}

}  // namespace

const Family mixtral_family = {
    .name = "mixtral",
    .architecture = "MixtralForCausalLM",
    .names = {kRows, "model.", kIgnoredBuffers},
    .read = read,
    .write = write,
};

}  // namespace sluice
