#pragma once
// SwiGLU experts with dispatch and combine, as one op: nothing of expert order is ever kept but the
// two pre-activations.

#include "autograd/ops/dispatch_combine.h"

namespace sluice {

/// Weights of E experts of width F.
struct ExpertWeightTensors {
  Tensor gate;  // [E, F, D]
  Tensor up;    // [E, F, D]
  Tensor down;  // [E, D, F]
};

/// y[n] = sum over slots j with a row of weights[n, j] down[e] (silu(gate[e] x[n]) * (up[e] x[n])),
/// e the expert of that row, in slot order: x [N, D], weights [N, k] -> [N, D]. Differentiable in x,
/// the three matrices and `weights`. Saves x, the matrices and two tensors of [R, F].
[[nodiscard]] Tensor swiglu_experts(Tape& tape, const Tensor& x, const ExpertWeightTensors& experts,
                                    const Tensor& weights, const DispatchPlan& plan);

/// The same without a plan: row r is token r, with weight 1, expert e has rows offsets[e] ..
/// offsets[e + 1] - 1: x [N, D], offsets [E + 1] i32 -> [N, D].
[[nodiscard]] Tensor swiglu_experts(Tape& tape, const Tensor& x, const ExpertWeightTensors& experts,
                                    const Tensor& offsets);

}  // namespace sluice
