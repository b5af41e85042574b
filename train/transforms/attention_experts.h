#pragma once
// Attention experts from the attention of several models: BAM (Zhang et al. 2024, arXiv 2408.08274).
//
// Expert i of an attention mixture (layers/mixers/attention_mixture.h) has the queries and outputs of
// model i mod M; its keys and values are its own, or, where the experts share them, the mean of all
// models'. Biases of the output and norms of queries and keys, which experts share, are means. The
// weights of a mixture sum to 1, so that equal models give their own attention, whatever the router.

#include <span>
#include <string>
#include <vector>

#include "layers/sublayer.h"
#include "train/checkpoint/checkpoint.h"
#include "train/transforms/upcycle.h"

namespace sluice {

/// An attention mixture and the attention that it comes from.
struct AttentionPair {
  std::string name;  // "layers.0"
  const SublayerSpec& mixture;
  const SublayerSpec& attention;
};

/// Those of two lists of equally many sublayers. Throws ConfigError when heads differ.
[[nodiscard]] std::vector<AttentionPair> attention_pairs(std::span<const SublayerSpec> before,
                                                         std::span<const SublayerSpec> after);

/// Overwrites the mixture's arrays in `state`, its router aside, by what the models' checkpoints give.
/// `files` stand in messages. Throws CheckpointError.
void make_attention_experts(const AttentionPair& pair, std::span<const Checkpoint* const> models,
                            std::span<const std::string> files, StateDict& state);

}  // namespace sluice
