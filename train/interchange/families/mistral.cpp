// Mistral (Jiang et al. 2023, arXiv 2310.06825): Llama without biases, with a sliding window or none.

#include "train/interchange/decoder_config.h"
#include "train/interchange/decoder_names.h"
#include "train/interchange/family.h"

namespace sluice {
namespace {

constexpr auto kRows = joined(kDecoderRows, kAttentionRows, kSwigluRows);
constexpr AttentionForm kAttention = {.allows_window = true};

ModelJson read(const ConfigReader& config) {
  return {{"model", read_dense_decoder(config, kAttention)}};
}

void write(const Recipe& recipe, ModelJson& config) {
  write_dense_decoder(recipe, kAttention, config);
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
