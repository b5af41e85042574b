#pragma once
// Tokens to experts and back.
//
// N tokens, k slots per token, E experts, R <= N k rows in expert order (dropped and empty slots
// have no row).

#include "autograd/core/tape.h"

namespace sluice {

/// Where every assignment goes: a stable counting sort by expert, so rows of an expert keep token
/// order.
struct DispatchPlan {
  Tensor offsets;       // [E + 1] i32: rows of expert e are offsets[e] .. offsets[e + 1] - 1
  Tensor token_of_row;  // [R] i32
  Tensor slot_of_row;   // [R] i32: token * k + slot
  Tensor row_of_slot;   // [N, k] i32, -1 where the slot has no row
};

/// expert [N, k] i32 with -1 for no expert, read on the host. Throws ShapeError for an expert past
/// E - 1.
[[nodiscard]] DispatchPlan make_dispatch_plan(Pool& pool, std::span<const int32_t> expert,
                                              int64_t tokens, int64_t top_k, int64_t experts);

/// y[r] = x[token_of_row[r]]: x [N, D] -> [R, D].
[[nodiscard]] Tensor dispatch(Tape& tape, const Tensor& x, const DispatchPlan& plan);

/// y[n] = sum over slots j with a row of weights[n, j] * x[row_of_slot[n, j]], in slot order: x [R,
/// D], weights [N, k] -> [N, D]. Differentiable in x and weights. Saves both and the plan's
/// tensors.
[[nodiscard]] Tensor combine(Tape& tape, const Tensor& x, const Tensor& weights,
                             const DispatchPlan& plan);

}  // namespace sluice
