#pragma once
// The language-model head and its loss in one, chunked so that the logits of a whole batch are
// never held.

#include "autograd/core/tape.h"

namespace sluice {

struct LinearCrossEntropyOptions {
  /// Every token's loss is divided by this (the valid tokens of the global batch).
  double divisor = 1.0;
  /// Weight of the mean squared log-sum-exp of the logits (head z-loss).
  double z_loss = 0.0;
};

struct LinearCrossEntropyResult {
  Tensor loss;  // one element: (sum of token losses + z_loss * sum of lse^2) / divisor, carries
                // gradients
  Tensor token_loss;  // [N]: cross-entropy in nats, 0 where ignored, not divided; no gradient
};

/// hidden [N, D], weight [V, D], targets [N] i32 in [0, V) or -100 (ignored: no loss, no gradient).
/// The forward computes the gradients already, when wanted; the backward only scales them. Throws
/// ShapeError, DTypeError.
[[nodiscard]] LinearCrossEntropyResult linear_cross_entropy(
    Tape& tape, const Tensor& hidden, const Tensor& weight, const Tensor& targets,
    const LinearCrossEntropyOptions& options);

}  // namespace sluice
