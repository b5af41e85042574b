#pragma once
// Choice and gather along the last dimension.

#include "autograd/core/tape.h"

namespace sluice {

struct TopKResult {
  Tensor values;  // [N, k], largest first; differentiable: the gradient goes to the chosen elements
                  // only
  Tensor indices;  // [N, k] i32; ties go to the lower index, NaN comes last
};
/// The k largest of each row of x [N, E]. Throws ShapeError when k is not in 1 .. E.
[[nodiscard]] TopKResult top_k(Tape& tape, const Tensor& x, int64_t k);

/// y[n, j] = x[n, index[n, j]], 0 where index is negative: x [N, E], index [N, k] i32 -> [N, k].
/// Saves index.
[[nodiscard]] Tensor gather_last(Tape& tape, const Tensor& x, const Tensor& index);

/// y[n, index[n, j]] += x[n, j], 0 elsewhere; nothing where index is negative: x [N, k], index [N, k]
/// i32 -> [N, E]. Saves index.
[[nodiscard]] Tensor scatter_last(Tape& tape, const Tensor& x, const Tensor& index, int64_t E);

}  // namespace sluice
