// Mistral (Jiang et al. 2023, arXiv 2310.06825): Llama without biases, with a sliding window or none.

#include "train/interchange/decoder_config.h"
#include "train/interchange/decoder_names.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

constexpr auto kRows = joined(kDecoderRows, kAttentionRows, kSwigluRows);
constexpr AttentionForm kAttention = {.allows_window = true};

ModelJson read(const ConfigReader& config) {
  require_silu(config);
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
  write_attention(recipe.model, dynamic_cast<const AttentionConfig&>(*decoder.mixer), kAttention,
                  config);
}

}  // namespace

const Family mistral_family = {
    .name = "mistral",
    .architecture = "MistralForCausalLM",
    .names = {kRows, "model.", kIgnoredBuffers},
    .read = read,
    .write = write,
};

}  // namespace sluice
