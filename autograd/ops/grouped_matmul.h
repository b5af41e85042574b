#pragma once
// One matrix product per expert over contiguous segments of rows.

#include "autograd/core/tape.h"

namespace sluice {

/// y[r, o] = sum_i x[r, i] w[e(r), o, i], where expert e owns the rows offsets[e] .. offsets[e + 1]
/// - 1 (empty experts are fine). x [R, I], weight [E, O, I], offsets [E + 1] i32 from 0 to R,
/// non-decreasing. Saves x and weight. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor grouped_matmul(Tape& tape, const Tensor& x, const Tensor& weight,
                                    const Tensor& offsets);

}  // namespace sluice
