#pragma once
// Experts: a function per expert, applied to the tokens that were sent to it.

#include <memory>
#include <vector>

#include "autograd/ops/swiglu_experts.h"
#include "layers/context.h"
#include "layers/module.h"

namespace sluice {

/// Letters: R rows (assignments), E experts, D hidden size, F expert width.
class Experts : public Module {
 public:
  /// The experts' outputs for each token, combined: sum over the token's slots j that have a row of
  /// weights[n, j] times the expert's output; x [N, D], weights [N, k] -> [N, D].
  [[nodiscard]] virtual Tensor forward(const ForwardContext& context, const Tensor& x,
                                       const Tensor& weights, const DispatchPlan& plan) const = 0;
  /// The same for tokens in expert order, with weight 1: expert e has rows offsets[e] ..
  /// offsets[e + 1] - 1, possibly none; x [R, D] -> [R, D].
  [[nodiscard]] virtual Tensor forward(const ForwardContext& context, const Tensor& x,
                                       const Tensor& offsets) const = 0;
  /// [E, F, D]: input weights of every neuron, whose pre-activation says whether it is active; null
  /// when the experts have no such thing.
  [[nodiscard]] virtual const Parameter* neuron_weights() const { return nullptr; }
};

/// One SwiGLU per expert, stacked: "<path>.w_gate" [E, F, D], "<path>.w_up" [E, F, D],
/// "<path>.w_down" [E, D, F].
class SwigluExperts final : public Experts {
 public:
  SwigluExperts(const Builder& b, int64_t num_experts, int64_t hidden_size,
                int64_t intermediate_size);
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& x,
                               const Tensor& weights, const DispatchPlan& plan) const override;
  [[nodiscard]] Tensor forward(const ForwardContext& context, const Tensor& x,
                               const Tensor& offsets) const override;
  /// w_gate: a neuron is active where SiLU's argument is positive.
  [[nodiscard]] const Parameter* neuron_weights() const override { return &w_gate_; }

 private:
  [[nodiscard]] ExpertWeightTensors matrices(Tape& tape) const;

  Parameter& w_gate_;
  Parameter& w_up_;
  Parameter& w_down_;
};

}  // namespace sluice
