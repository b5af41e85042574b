#pragma once
// What Qwen2-MoE and Qwen3-MoE have in common: which layers route, and the keys of their experts.

#include "train/interchange/decoder_config.h"

namespace sluice {

/// Layer i routes when (i + 1) is a multiple of decoder_sparse_step and i is not in mlp_only_layers.
[[nodiscard]] std::vector<bool> read_qwen_routed_layers(const ConfigReader& config);
/// Pattern, widths, feed-forwards and experts; without attention.
[[nodiscard]] ModelJson read_qwen_moe(const ConfigReader& config, int64_t num_experts,
                                      int64_t top_k, int64_t width);
/// The other way.
void write_qwen_moe(const Recipe& recipe, const Decoder& decoder, ModelJson& config);

}  // namespace sluice
