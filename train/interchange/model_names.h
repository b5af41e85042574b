#pragma once
// The parameters of a recipe's model, and where routed layers stand in it, without its memory.

#include "train/interchange/family.h"

namespace sluice {

/// Name and shape of every parameter, in order. Throws what build_model throws.
[[nodiscard]] std::vector<ParameterShape> parameter_shapes(const Recipe& recipe,
                                                           int64_t tokenizer_vocab_size);

/// Width of the heads that rotate, 0 without any, and whether our rows of them are interleaved.
struct RotatingHeads {
  int64_t head_dim = 0;
  bool is_interleaved = false;
};
[[nodiscard]] RotatingHeads rotating_heads(const ModelConfig& model);

/// The decoder layer (a mixer and a feed-forward) of each routed layer.
[[nodiscard]] std::vector<int64_t> routed_decoder_layers(const ModelConfig& model);

/// Where a checkpoint keeps the biases of loss_free_bias.
[[nodiscard]] std::string selection_bias_path(size_t routed_layer);
/// The family's tensor of them.
[[nodiscard]] std::string selection_bias_name(const Family& family, int64_t decoder_layer);

}  // namespace sluice
