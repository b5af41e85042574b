#pragma once
// Gated RMSNorm over groups of channels.

#include <cstdint>

#include "autograd/core/tape.h"

namespace sluice {

struct GatedRmsNormOptions {
  double eps = 1e-5;
  /// Channels normalised together, a divisor of D; 0: all of a row's.
  int64_t group_size = 0;
  /// false: RMSNorm(x silu(z)) weight;  true: RMSNorm(x) weight silu(z).
  bool norm_before_gate = false;
};

/// x and z [N, D], weight [D] -> [N, D]. Saves x, z, weight and a number per group. Throws
/// ShapeError, DTypeError.
[[nodiscard]] Tensor gated_rms_norm(Tape& tape, const Tensor& x, const Tensor& z,
                                    const Tensor& weight, const GatedRmsNormOptions& options);

}  // namespace sluice
