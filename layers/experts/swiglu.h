#pragma once
// One SwiGLU per expert (Shazeer 2020, arXiv 2002.05202; as in Mixtral), stacked:
//
//   y = Wd_e (silu(Wg_e x) * (Wu_e x))

#include "autograd/ops/swiglu_experts.h"
#include "layers/experts.h"

namespace sluice {

/// Parameters "<path>.w_gate" [E, F, D], "<path>.w_up" [E, F, D], "<path>.w_down" [E, D, F].
class SwigluExperts final : public Experts {
 public:
  SwigluExperts(const Builder& b, const ExpertsSetup& setup);
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
