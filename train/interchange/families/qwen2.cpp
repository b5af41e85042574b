// Qwen2 (Yang et al. 2024, arXiv 2407.10671): biases on queries, keys and values.

#include "train/interchange/decoder_config.h"
#include "train/interchange/decoder_names.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

constexpr auto kRows = joined(kDecoderRows, kAttentionRows, kSwigluRows);
constexpr AttentionForm kAttention = {.bias = "qkv"};

ModelJson read(const ConfigReader& config) {
  require_silu(config);
  config.require("use_sliding_window", false, "all layers see all tokens");
  const auto layers = static_cast<size_t>(read_num_layers(config));
  ModelJson model = {{"pattern", pattern_of('A', std::vector<bool>(layers, false))}};
  read_widths(config, model);
  read_attention(config, kAttention, model);
  read_feed_forward(config, false, model);
  return {{"model", model}};
}

void write(const Recipe& recipe, ModelJson& config) {
  const Decoder decoder = decoder_of(recipe.model, "attention");
  require_dense(decoder);
  require_swiglu(*decoder.dense);
  write_widths(recipe.model, decoder, config);
  config["intermediate_size"] = decoder.dense->intermediate_size;
  config["use_sliding_window"] = false;
  write_attention(recipe.model, dynamic_cast<const AttentionConfig&>(*decoder.mixer), kAttention,
                  config);
}

}  // namespace

const Family qwen2_family = {
    .name = "qwen2",
    .architecture = "Qwen2ForCausalLM",
    .names = {kRows, "model.", kIgnoredBuffers},
    .read = read,
    .write = write,
};

}  // namespace sluice
