// The dense-to-sparse gate with a temperature, plain or with an activation ("Is Temperature Sample
// Efficient for Softmax Gaussian Mixture of Experts?", Nguyen, Akbarian and Ho 2024, arXiv
// 2401.13875; the form is read from the abstract [R]).
//
//   z = (a(x W^T) + b) / tau,   scores = softmax(z) (or sigmoid)
//
// with a the identity (the plain gate, whose parameters (W, b, tau) and (cW, cb, c tau) are one
// function) or a sigmoid, tanh or GELU (the activation gate, which tells them apart). tau is
// annealed by a schedule. In the paper every expert takes part: `top_k` equal to `num_experts`;
// fewer make it sparse, which is ours.

#include <array>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

enum class Activation : uint8_t { none, sigmoid, tanh, gelu };

struct TemperatureConfig final : TopKRouterConfig {
  Scheduled temperature = 1.0;
  Activation activation = Activation::none;
  bool bias = true;

  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.scheduled({"temperature",
                 "tau, which divides the logits; a schedule goes from dense to "
                 "sparse"},
                temperature, {.min = 0.0, .exclusive_min = true});
    v.enumeration({"activation", "applied to x W^T before the bias: none is the plain gate"},
                  activation,
                  {{"none", Activation::none},
                   {"sigmoid", Activation::sigmoid},
                   {"tanh", Activation::tanh},
                   {"gelu", Activation::gelu}});
    v.boolean({"bias", "add a learned bias per expert before dividing"}, bias);
  }
};

Tensor activate(Tape& tape, Activation activation, const Tensor& x) {
  switch (activation) {
    case Activation::none:
      return x;
    case Activation::sigmoid:
      return sigmoid(tape, x);
    case Activation::tanh:
      return tanh(tape, x);
    case Activation::gelu:
      return gelu_tanh(tape, x);
  }
  return x;
}

class TemperatureRouter final : public TopKRouter {
 public:
  TemperatureRouter(const Builder& b, const RouterSetup& setup, const TemperatureConfig& config)
      : TopKRouter(b, setup, config),
        temperature_(config.temperature),
        activation_(config.activation) {
    if (config.bias) {
      bias_ = &parameter(b, "bias", {setup.num_experts}, ParameterKind::bias, Init::zeros());
    }
  }

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    Tensor z =
        activate(tape, activation_, linear(tape, router_input(context, x), tape.use(weight_)));
    if (bias_ != nullptr) z = add_bias(tape, z, tape.use(*bias_));
    return from_logits(context, scale(tape, z, 1.0 / temperature_.at(context.progress)));
  }

 private:
  Parameter* bias_ = nullptr;  // [E]
  Scheduled temperature_;
  Activation activation_;
};

}  // namespace

const RouterEntry temperature_router = {
    .name = "temperature",
    .doc =
        "logits over an annealed temperature, plain or with an activation (Nguyen et al. 2024, "
        "arXiv 2401.13875)",
    .make_config = make_router_config<TemperatureConfig>,
    .make = make_router<TemperatureRouter, TemperatureConfig>,
};

}  // namespace sluice
