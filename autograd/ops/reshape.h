#pragma once
// The same numbers in another shape, or cut and joined.

#include <span>

#include "autograd/core/tape.h"

namespace sluice {

/// Shares memory; the gradient is reshaped back. Throws ShapeError when the element counts differ.
[[nodiscard]] Tensor reshape(Tape& tape, const Tensor& x, const Shape& shape);
/// Rows begin .. end-1 of x [N, ...].
[[nodiscard]] Tensor slice_rows(Tape& tape, const Tensor& x, int64_t begin, int64_t end);
/// Columns begin .. end-1 of x [N, D].
[[nodiscard]] Tensor slice_columns(Tape& tape, const Tensor& x, int64_t begin, int64_t end);
[[nodiscard]] Tensor concat_rows(Tape& tape, std::span<const Tensor> parts);
[[nodiscard]] Tensor concat_columns(Tape& tape, std::span<const Tensor> parts);
/// x without a gradient.
[[nodiscard]] Tensor stop_gradient(Tape& tape, const Tensor& x);

}  // namespace sluice
