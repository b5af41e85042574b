#pragma once
// Directions: rows of length 1, and constants on the tape.

#include "autograd/core/tape.h"

namespace sluice {

/// A constant tensor with `value` everywhere.
[[nodiscard]] Tensor filled(Tape& tape, const Shape& shape, DType dtype, double value);

/// x / (|x|^2 + 1e-16)^(1/2) per row, x [N, D]: x / |x| in a form with a derivative at 0.
/// Differentiable; saves x and one number per row.
[[nodiscard]] Tensor unit_rows(Tape& tape, const Tensor& x);

}  // namespace sluice
