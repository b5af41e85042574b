#pragma once
// Ternary experts stored as what they compute with: levels, five to a byte, and one number per matrix
// (checkpoint/packed_ternary.h).
//
//   const PackedExperts packed = pack_experts(read_checkpoint(file), file);
//   write_checkpoint(real_file_system(), "packed.h5", packed.checkpoint);

#include <cstdint>
#include <string>

#include "train/checkpoint/checkpoint.h"

namespace sluice {

struct PackedExperts {
  /// Weights, balancers' state and recipe: to evaluate, sample from or start a run from, not to resume. The
  /// numbers behind the levels are gone.
  Checkpoint checkpoint;
  int64_t weights = 0;  // of the experts
  int64_t bytes = 0;    // that they take now
};

/// `source` (a file name) stands in messages. Throws ConfigError when the model has no experts of form
/// ternary.
[[nodiscard]] PackedExperts pack_experts(const Checkpoint& checkpoint, const std::string& source);

}  // namespace sluice
