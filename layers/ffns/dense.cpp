#include "layers/ffns/dense.h"

#include <array>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/swiglu.h"
#include "autograd/ops/swiglu_experts.h"
#include "layers/model.h"

namespace sluice {

void DenseConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kActivations = {"swiglu", "gelu_tanh"};
  v.integer({"intermediate_size", "width F of the hidden layer"}, intermediate_size, {.min = 1});
  v.word({"activation", "swiglu (three matrices), or gelu_tanh (two, as in GPT-2)"}, activation,
         kActivations);
  v.boolean({"bias", "biases on every projection"}, bias);
}

DenseFeedForward::DenseFeedForward(const Builder& b, int64_t hidden_size, const DenseConfig& config)
    : gated_(config.activation == "swiglu"), has_bias_(config.bias) {
  const int64_t width = config.intermediate_size;
  if (gated_) {
    gate_ =
        &child(std::make_unique<Linear>(b, LinearSpec{"gate", hidden_size, width, config.bias}));
  }
  up_ = &child(std::make_unique<Linear>(b, LinearSpec{"up", hidden_size, width, config.bias}));
  down_ = &child(std::make_unique<Linear>(
      b, LinearSpec{"down", width, hidden_size, config.bias, Init::residual()}));
}

Tensor DenseFeedForward::apply(const ForwardContext& context, const Tensor& x) const {
  Tape& tape = context.tape;
  const bool adapted =
      (gated_ && gate_->has_adapter()) || up_->has_adapter() || down_->has_adapter();
  if (gated_ && !has_bias_ && !adapted) {
    return swiglu_feed_forward(tape, x, gate_->weight(tape), up_->weight(tape),
                               down_->weight(tape));
  }
  const Tensor up = up_->forward(context, x);
  const Tensor hidden = gated_ ? swiglu(tape, gate_->forward(context, x), up) : gelu_tanh(tape, up);
  return down_->forward(context, hidden);
}

Tensor DenseFeedForward::forward(const ForwardContext& context, const Tensor& x,
                                 BlockState& /*state*/) const {
  const PhaseScope phase(context.tape, Phase::feed_forward);
  return apply(context, x);
}

const FeedForwardEntry dense_feed_forward = {
    .name = "dense",
    .symbol = 'F',
    .section = "feed_forward",
    .doc = "dense feed-forward (SwiGLU: Shazeer 2020, arXiv 2002.05202)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<DenseConfig>();
    },
    .check = nullptr,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace) -> std::unique_ptr<FeedForward> {
      return std::make_unique<DenseFeedForward>(b.child("feed_forward"), model.hidden_size,
                                                dynamic_cast<const DenseConfig&>(config));
    },
};

}  // namespace sluice
