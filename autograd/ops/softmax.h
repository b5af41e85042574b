#pragma once
// Over the last dimension.

#include "autograd/core/tape.h"

namespace sluice {

/// exp(x - max) / sum. Saves the output.
[[nodiscard]] Tensor softmax(Tape& tape, const Tensor& x);
/// x - log sum exp x. Saves the output.
[[nodiscard]] Tensor log_softmax(Tape& tape, const Tensor& x);
/// log sum exp: x [..., E] -> [...]. Saves x and the result.
[[nodiscard]] Tensor logsumexp(Tape& tape, const Tensor& x);
/// x / (sum + eps): x [..., E]. Saves the output and the sums.
[[nodiscard]] Tensor normalise_rows(Tape& tape, const Tensor& x, double eps);

}  // namespace sluice
