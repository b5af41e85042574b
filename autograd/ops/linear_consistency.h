#pragma once
// The symmetric divergence of what two passes over the same tokens predict, through the
// language-model head, chunked so that the logits of a whole batch are never held.

#include "autograd/core/tape.h"

namespace sluice {

/// hidden [2 N, D]: the first pass over N tokens, then the second; weight [V, D], targets [2 N] i32,
/// negative where there is no loss (those of the first pass are read). One element:
///   1 / divisor sum_n 1/2 (KL(p_n || q_n) + KL(q_n || p_n)),   p, q = softmax of hidden weight^T
/// with gradients to both passes. The forward computes the gradients already, when wanted; the
/// backward only scales them. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor linear_consistency(Tape& tape, const Tensor& hidden, const Tensor& weight,
                                        const Tensor& targets, double divisor);

}  // namespace sluice
