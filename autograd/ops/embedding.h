#pragma once
// Rows of a table by token id.

#include "autograd/core/tape.h"

namespace sluice {

/// y[n] = weight[ids[n]]: weight [V, D], ids [N] i32 in [0, V) -> [N, D]. The backward adds rows of
/// equal id in token order. Saves ids. Throws ShapeError (also for an id outside the table),
/// DTypeError.
[[nodiscard]] Tensor embedding(Tape& tape, const Tensor& weight, const Tensor& ids);

}  // namespace sluice
