#include "layers/output_gate.h"

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "autograd/ops/reshape.h"

namespace sluice {

void OutputGateConfig::fields(FieldVisitor& v) {
  v.boolean({"output_gate", "multiply the output by sigmoid(w x + b + output_gate_bias)"},
            output_gate);
  v.scheduled({"output_gate_bias",
               "where that gate starts: -4 is nearly closed; -1000 is closed, as before a stage "
               "of training that opens it"},
              output_gate_bias, {});
}

OutputGate::OutputGate(const Builder& b, int64_t hidden_size, const OutputGateConfig& config)
    : offset_(config.output_gate_bias) {
  if (!config.output_gate) return;
  weight_ = &parameter(b, "w_output_gate", {1, hidden_size}, ParameterKind::matrix, Init::zeros());
  bias_ = &parameter(b, "b_output_gate", {1}, ParameterKind::bias, Init::zeros());
}

Tensor OutputGate::apply(const ForwardContext& context, const Tensor& x, const Tensor& y) const {
  if (weight_ == nullptr) return y;
  Tape& tape = context.tape;
  const Tensor opening = add_constant(tape, linear(tape, x, tape.use(*weight_), tape.use(*bias_)),
                                      offset_.at(context.progress));
  return mul_rows(tape, y, reshape(tape, sigmoid(tape, opening), {x.dim(0)}));
}

}  // namespace sluice
