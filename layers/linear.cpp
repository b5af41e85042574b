#include "layers/linear.h"

namespace sluice {

Linear::Linear(const Builder& b, const LinearSpec& spec)
    : weight_(
          parameter(b, "w_" + spec.name, {spec.out, spec.in}, ParameterKind::matrix, spec.init)) {
  if (spec.bias) {
    bias_ = &parameter(b, "b_" + spec.name, {spec.out}, ParameterKind::bias, Init::zeros());
  }
}

LinearWeights Linear::weights(Tape& tape) const {
  return {tape.use(weight_), bias_ != nullptr ? tape.use(*bias_) : Tensor()};
}

Tensor Linear::forward(const ForwardContext& context, const Tensor& x) const {
  const LinearWeights own = weights(context.tape);
  return linear(context.tape, x, own.weight, own.bias);
}

}  // namespace sluice
