#pragma once
// Sums in a fixed order: the same bits on any number of threads.

#include "autograd/core/tape.h"

namespace sluice {

/// Sum of all elements -> one element, shape [].
[[nodiscard]] Tensor sum(Tape& tape, const Tensor& x);
/// Mean of all elements -> shape []. Throws ShapeError for no element.
[[nodiscard]] Tensor mean(Tape& tape, const Tensor& x);
/// x [N, D] -> [D], summed over rows.
[[nodiscard]] Tensor sum_rows(Tape& tape, const Tensor& x);
/// x [..., D] -> [...], summed over the last dimension.
[[nodiscard]] Tensor sum_last(Tape& tape, const Tensor& x);

}  // namespace sluice
