#pragma once
// The mean of a document's tokens so far (kernels/running_mean.h).

#include <cstdint>
#include <span>

#include "autograd/core/tape.h"

namespace sluice {

/// y[t] = mean of x[s] over the tokens s <= t of t's document: x [N, D] -> [N, D]. `documents` [G + 1],
/// from 0 to N, must live until the backward has run. Saves nothing. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor running_mean(Tape& tape, const Tensor& x, std::span<const int64_t> documents);

/// Decoding: the next tokens of one document, of which `count` were before with the sums `sums` [D], which
/// move on. The same bits as above; never records.
[[nodiscard]] Tensor running_mean_step(Tape& tape, const Tensor& x, std::span<double> sums,
                                       int64_t count);

}  // namespace sluice
