// Qwen2 (Yang et al. 2024, arXiv 2407.10671): biases on queries, keys and values.

#include "train/interchange/decoder_config.h"
#include "train/interchange/decoder_names.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

constexpr auto kRows = joined(kDecoderRows, kAttentionRows, kSwigluRows);
constexpr AttentionForm kAttention = {.bias = "qkv"};

ModelJson read(const ConfigReader& config) {
  config.require("use_sliding_window", false, "all layers see all tokens");
  return {{"model", read_dense_decoder(config, kAttention)}};
}

void write(const Recipe& recipe, ModelJson& config) {
  config["use_sliding_window"] = false;
  write_dense_decoder(recipe, kAttention, config);
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
