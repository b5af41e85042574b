#include "layers/norm.h"

#include <array>

#include "autograd/ops/norm.h"

namespace sluice {

void NormConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kTypes = {"rms_norm", "layer_norm"};
  v.word({"type", "rms_norm, or layer_norm (with a bias)"}, type, kTypes);
  v.number({"eps", "added to the mean square, or to the variance"}, eps,
           {.min = 0.0, .max = 1.0, .exclusive_min = true});
}

Norm::Norm(const Builder& b, const NormConfig& config, int64_t size)
    : eps_(config.eps), weight_(parameter(b, "weight", {size}, ParameterKind::norm, Init::ones())) {
  if (config.type == "layer_norm") {
    bias_ = &parameter(b, "bias", {size}, ParameterKind::bias, Init::zeros());
  }
}

Tensor Norm::forward(const ForwardContext& context, const Tensor& x) const {
  Tape& tape = context.tape;
  if (bias_ == nullptr) return rms_norm(tape, x, tape.use(weight_), eps_);
  return layer_norm(tape, x, tape.use(weight_), tape.use(*bias_), eps_);
}

}  // namespace sluice
