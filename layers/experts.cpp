#include "layers/experts.h"

namespace sluice {

SwigluExperts::SwigluExperts(const Builder& b, int64_t num_experts, int64_t hidden_size,
                             int64_t intermediate_size)
    : w_gate_(parameter(b, "w_gate", {num_experts, intermediate_size, hidden_size},
                        ParameterKind::matrix, {}, Stack::routed_experts)),
      w_up_(parameter(b, "w_up", {num_experts, intermediate_size, hidden_size},
                      ParameterKind::matrix, {}, Stack::routed_experts)),
      w_down_(parameter(b, "w_down", {num_experts, hidden_size, intermediate_size},
                        ParameterKind::matrix, Init::residual(), Stack::routed_experts)) {}

ExpertWeightTensors SwigluExperts::matrices(Tape& tape) const {
  return {tape.use(w_gate_), tape.use(w_up_), tape.use(w_down_)};
}

Tensor SwigluExperts::forward(const ForwardContext& context, const Tensor& x, const Tensor& weights,
                              const DispatchPlan& plan) const {
  return swiglu_experts(context.tape, x, matrices(context.tape), weights, plan);
}

Tensor SwigluExperts::forward(const ForwardContext& context, const Tensor& x,
                              const Tensor& offsets) const {
  return swiglu_experts(context.tape, x, matrices(context.tape), offsets);
}

}  // namespace sluice
