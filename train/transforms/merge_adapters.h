#pragma once
// Adapters folded into the matrices that they stand beside: a model without them that computes the same.
//
//   const MergedModel merged = merge_adapters(read_checkpoint(file), file);
//   write_checkpoint(real_file_system(), "merged.h5", merged.checkpoint);
//
// W + s B A is one matrix where all tokens have the same gates: of lora, mos, static_mixture, and of mola
// and lora_mixer with a single expert.

#include <cstdint>
#include <string>

#include "train/checkpoint/checkpoint.h"

namespace sluice {

struct MergedModel {
  /// Weights, balancers' state and a recipe without adapters: to evaluate, sample from, export or start a
  /// run from (train.init_from), not to resume.
  Checkpoint checkpoint;
  int64_t adapters = 0;  // merged
  int64_t matrices = 0;  // changed
};

/// `source` (a file name) stands in messages. Sums are in f64 and rounded once. Throws ConfigError when
/// the model has no adapters, or one that no single matrix stands for.
[[nodiscard]] MergedModel merge_adapters(const Checkpoint& checkpoint, const std::string& source);

}  // namespace sluice
