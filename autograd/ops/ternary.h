#pragma once
// Rounding with straight-through gradients: the forward pass sees few levels, the backward pass the
// identity, so that what is trained are the numbers behind the levels.

#include "autograd/core/tape.h"

namespace sluice {

/// Each matrix x[m] of x [M, ...] as g t, g = mean |x[m]|, t = clamp(round(x / (g + epsilon)), -1, 1),
/// round half to even (BitNet b1.58, arXiv 2402.17764; MoTE, arXiv 2506.14435). Gradient: that of y,
/// unchanged, also where the value was clamped. Saves nothing.
[[nodiscard]] Tensor ternarise(Tape& tape, const Tensor& x, double epsilon = 1e-5);

/// Each row of x [N, D] rounded to 8 bits: clamp(round(a x), -128, 127) / a, a = 127 / max |x| of the
/// row. Gradient: that of y, unchanged. Saves nothing.
[[nodiscard]] Tensor round_rows_to_int8(Tape& tape, const Tensor& x);

}  // namespace sluice
