#include "layers/causal_convolution.h"

#include "autograd/ops/causal_conv1d.h"

namespace sluice {

CausalConvolution::CausalConvolution(const Builder& b, int64_t channels, int64_t taps,
                                     bool has_bias)
    : weight_(
          parameter(b, "weight", {channels, taps}, ParameterKind::matrix, Init::uniform(taps))) {
  if (has_bias) {
    bias_ = &parameter(b, "bias", {channels}, ParameterKind::bias, Init::uniform(taps));
  }
}

Tensor CausalConvolution::bias(Tape& tape) const {
  return bias_ != nullptr ? tape.use(*bias_) : Tensor();
}

Tensor CausalConvolution::forward(const ForwardContext& context, const Tensor& x) const {
  return forward(context, x, context.layout.document_offsets);
}

Tensor CausalConvolution::forward(const ForwardContext& context, const Tensor& x,
                                  std::span<const int64_t> offsets) const {
  Tape& tape = context.tape;
  return causal_conv1d(tape, x, tape.use(weight_), bias(tape), {offsets});
}

Tensor CausalConvolution::make_history(Pool& pool, DType dtype) const {
  const Shape& shape = weight_.value.shape();
  return Tensor::zeros(pool, {shape[1] - 1, shape[0]}, dtype);
}

Tensor CausalConvolution::decode(const ForwardContext& context, const Tensor& x,
                                 Tensor& history) const {
  Tape& tape = context.tape;
  return causal_conv1d_step(tape, x, tape.use(weight_), bias(tape), true, history);
}

}  // namespace sluice
