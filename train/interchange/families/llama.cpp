// Llama (Touvron et al. 2023, arXiv 2302.13971): no biases unless attention_bias or mlp_bias say so.

#include "train/interchange/decoder_config.h"
#include "train/interchange/decoder_names.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

constexpr auto kRows = joined(kDecoderRows, kAttentionRows, kSwigluRows);

ModelJson read(const ConfigReader& config) {
  const bool bias = config.boolean_or("attention_bias", false);
  return {{"model", read_dense_decoder(config, {.bias = bias ? "all" : "none"},
                                       config.boolean_or("mlp_bias", false))}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const Decoder decoder = decoder_of(recipe.model, "attention");
  require_dense(decoder);
  require_swiglu(*decoder.dense, true);
  const auto& attention = dynamic_cast<const AttentionConfig&>(*decoder.mixer);
  require_width_of_heads(recipe.model, attention.num_heads);
  const bool bias = attention.bias == "all";
  write_widths(recipe.model, decoder, config);
  config["intermediate_size"] = decoder.dense->intermediate_size;
  config["attention_bias"] = bias;
  config["mlp_bias"] = decoder.dense->bias;
  write_attention(recipe.model, attention, {.bias = bias ? "all" : "none"}, config);
}

}  // namespace

const Family llama_family = {
    .name = "llama",
    .architecture = "LlamaForCausalLM",
    .names = {kRows, "model.", kIgnoredBuffers},
    .read = read,
    .write = write,
};

}  // namespace sluice
