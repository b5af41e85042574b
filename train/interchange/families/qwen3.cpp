// Qwen3 (Yang et al. 2025, arXiv 2505.09388): RMSNorm of every head's queries and keys.

#include "train/interchange/decoder_config.h"
#include "train/interchange/decoder_names.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

constexpr auto kRows = joined(kDecoderRows, kAttentionRows, kSwigluRows);

ModelJson read(const ConfigReader& config) {
  config.require("use_sliding_window", false, "all layers see all tokens");
  const bool bias = config.boolean_or("attention_bias", false);
  ModelJson model = read_dense_decoder(
      config, {.bias = bias ? "all" : "none", .qk_norm = "per_head"});
  // The released configs give it; it is no quotient there.
  if (!config.has("head_dim")) model["attention"]["head_dim"] = 128;
  return {{"model", model}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const Decoder decoder = decoder_of(recipe.model, "attention");
  require_dense(decoder);
  require_swiglu(*decoder.dense);
  const auto& attention = dynamic_cast<const AttentionConfig&>(*decoder.mixer);
  const bool bias = attention.bias == "all";
  write_widths(recipe.model, decoder, config);
  config["intermediate_size"] = decoder.dense->intermediate_size;
  config["attention_bias"] = bias;
  config["use_sliding_window"] = false;
  write_attention(recipe.model, attention, {.bias = bias ? "all" : "none", .qk_norm = "per_head"},
                  config);
}

}  // namespace

const Family qwen3_family = {
    .name = "qwen3",
    .architecture = "Qwen3ForCausalLM",
    .names = {kRows, "model.", kIgnoredBuffers},
    .read = read,
    .write = write,
};

}  // namespace sluice
