#pragma once
// Experts whose weights are products of two axes (kernels/factored_mix.h).

#include "autograd/core/tape.h"

namespace sluice {

/// z[t, j] = sum_h to[t, h, j] sum_i from[t, h, i] a[t, i]: from and to [N, H, n], a [N, n, m] -> [N, n, m].
/// Weights that are 0 cost nothing. Saves all three. Throws ShapeError, DTypeError.
[[nodiscard]] Tensor factored_mix(Tape& tape, const Tensor& from, const Tensor& to,
                                  const Tensor& a);

}  // namespace sluice
