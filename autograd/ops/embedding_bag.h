#pragma once
// Several rows of a table per token: memories of many small entries.

#include "autograd/core/tape.h"

namespace sluice {

/// y[n] = sum over j of weights[n, j] table[ids[n, j]]: table [V, D], ids [N, k] i32 in [0, V), weights
/// [N, k] -> [N, D]. Differentiable in table and weights. Saves all three. Throws ShapeError (also for
/// an id outside the table), DTypeError.
[[nodiscard]] Tensor embedding_bag(Tape& tape, const Tensor& table, const Tensor& ids,
                                   const Tensor& weights);

/// z[n, j] = <x[n], table[ids[n, j]]>: x [N, D], table [V, D], ids [N, k] i32 -> [N, k].
/// Differentiable in x and table. Saves all three. Throws as above.
[[nodiscard]] Tensor embedding_dots(Tape& tape, const Tensor& x, const Tensor& table,
                                    const Tensor& ids);

}  // namespace sluice
