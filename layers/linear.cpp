#include "layers/linear.h"

#include "autograd/ops/matmul.h"

namespace sluice {

Linear::Linear(const Builder& b, const LinearSpec& spec)
    : weight_(
          parameter(b, "w_" + spec.name, {spec.out, spec.in}, ParameterKind::matrix, spec.init)) {
  if (spec.bias) {
    bias_ = &parameter(b, "b_" + spec.name, {spec.out}, ParameterKind::bias, Init::zeros());
  }
}

Tensor Linear::forward(const ForwardContext& context, const Tensor& x) const {
  Tape& tape = context.tape;
  return linear(tape, x, tape.use(weight_), bias_ != nullptr ? tape.use(*bias_) : Tensor());
}

}  // namespace sluice
