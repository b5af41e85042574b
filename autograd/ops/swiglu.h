#pragma once
// The element-wise half of a SwiGLU feed-forward.

#include "autograd/core/tape.h"

namespace sluice {

/// y = silu(gate) * up, element by element (Shazeer 2020). Saves gate and up. Throws ShapeError,
/// DTypeError.
[[nodiscard]] Tensor swiglu(Tape& tape, const Tensor& gate, const Tensor& up);

}  // namespace sluice
