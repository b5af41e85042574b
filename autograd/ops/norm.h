#pragma once
// Normalisation over the last dimension.

#include "autograd/core/tape.h"

namespace sluice {

/// y = weight * x / sqrt(mean(x^2) + eps) over the last dimension (Zhang and Sennrich 2019). x
/// [..., D], weight [D]. Saves x and 1/rms per row. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor rms_norm(Tape& tape, const Tensor& x, const Tensor& weight, double eps);

/// The same with a weight for each expert, of which e has the rows offsets[e] .. offsets[e + 1] - 1
/// (none is fine): x [R, ..., D], weight [E, D], offsets [E + 1] i32 from 0 to R, non-decreasing.
[[nodiscard]] Tensor grouped_rms_norm(Tape& tape, const Tensor& x, const Tensor& weight,
                                      const Tensor& offsets, double eps);

/// y = weight * (x - mean) / sqrt(var + eps) + bias (Ba, Kiros and Hinton 2016). Saves x, mean and
/// 1/std per row.
[[nodiscard]] Tensor layer_norm(Tape& tape, const Tensor& x, const Tensor& weight,
                                const Tensor& bias, double eps);

}  // namespace sluice
