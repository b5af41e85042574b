#include "layers/experts.h"

#include "autograd/ops/grouped_matmul.h"
#include "autograd/ops/swiglu.h"

namespace sluice {

SwigluExperts::SwigluExperts(const Builder& b, int64_t num_experts, int64_t hidden_size,
                             int64_t intermediate_size)
    : w_gate_(parameter(b, "w_gate", {num_experts, intermediate_size, hidden_size},
                        ParameterKind::matrix, {}, Stack::routed_experts)),
      w_up_(parameter(b, "w_up", {num_experts, intermediate_size, hidden_size},
                      ParameterKind::matrix, {}, Stack::routed_experts)),
      w_down_(parameter(b, "w_down", {num_experts, hidden_size, intermediate_size},
                        ParameterKind::matrix, Init::residual(), Stack::routed_experts)) {}

Tensor SwigluExperts::forward(const ForwardContext& context, const Tensor& x,
                              const Tensor& offsets) const {
  Tape& tape = context.tape;
  const Tensor gate = grouped_matmul(tape, x, tape.use(w_gate_), offsets);
  const Tensor up = grouped_matmul(tape, x, tape.use(w_up_), offsets);
  return grouped_matmul(tape, swiglu(tape, gate, up), tape.use(w_down_), offsets);
}

}  // namespace sluice
