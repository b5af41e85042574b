#include "layers/experts/swiglu.h"

namespace sluice {

SwigluExperts::SwigluExperts(const Builder& b, const ExpertsSetup& setup)
    : w_gate_(parameter(b, "w_gate",
                        {setup.num_experts, setup.intermediate_size, setup.hidden_size},
                        ParameterKind::matrix, {}, Stack::routed_experts)),
      w_up_(parameter(b, "w_up", {setup.num_experts, setup.intermediate_size, setup.hidden_size},
                      ParameterKind::matrix, {}, Stack::routed_experts)),
      w_down_(parameter(b, "w_down",
                        {setup.num_experts, setup.hidden_size, setup.intermediate_size},
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

namespace {

struct SwigluConfig final : Configurable {
  void fields(FieldVisitor&) override {}
};

}  // namespace

const ExpertsEntry swiglu_form = {
    .name = "swiglu",
    .doc = "SwiGLU, three matrices (Shazeer 2020, arXiv 2002.05202)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<SwigluConfig>();
    },
    .make = [](const Builder& b, const ExpertsSetup& setup, const Configurable&)
        -> std::unique_ptr<Experts> { return std::make_unique<SwigluExperts>(b, setup); },
};

}  // namespace sluice
