#include "layers/linear.h"

#include "autograd/support/error.h"

namespace sluice {

Linear::Linear(const Builder& b, const LinearSpec& spec)
    : weight_(
          parameter(b, "w_" + spec.name, {spec.out, spec.in}, ParameterKind::matrix, spec.init)) {
  if (spec.bias) {
    bias_ = &parameter(b, "b_" + spec.name, {spec.out}, ParameterKind::bias, Init::zeros());
  }
  if (b.adapters() == nullptr) return;
  if (auto adapter = b.adapters()->make(b, spec, weight_)) adapter_ = &child(std::move(adapter));
}

LinearWeights Linear::weights(Tape& tape) const {
  return {tape.use(weight_), bias_ != nullptr ? tape.use(*bias_) : Tensor()};
}

Tensor Linear::forward(const ForwardContext& context, const Tensor& x) const {
  const LinearWeights own = weights(context.tape);
  return adapted(context, x, linear(context.tape, x, own.weight, own.bias));
}

void Linear::check_whole() const {
  SLUICE_CHECK(ConfigError, adapter_ == nullptr,
               "model.adapters: {} carries one, but its layer does more with it than multiply by "
               "it; allowed other linear maps",
               weight_.name);
}

void Linear::stay_f32() {
  check_whole();
  weight_.stays_f32 = true;
}

Tensor Linear::weight(Tape& tape) const {
  check_whole();
  return tape.use(weight_);
}

}  // namespace sluice
