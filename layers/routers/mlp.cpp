// A top-k router with a hidden layer (Shen et al. 2023, "ModuleFormer", section 3.2):
//
//   h = gelu(W_1 x + b_1),  z = W h
//
// and from z on what top_k does with its logits. ModuleFormer's weights are `as_is`: softmax, top-k,
// not divided by the sum. Our gelu is the tanh form.

#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

struct MlpRouterConfig final : TopKRouterConfig {
  int64_t hidden_size = 256;
  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.integer({"hidden_size", "width of the router's hidden layer"}, hidden_size, {.min = 1});
  }
};

RouterSetup behind_hidden_layer(RouterSetup setup, int64_t hidden_size) {
  setup.hidden_size = hidden_size;
  return setup;
}

class MlpRouter final : public TopKRouter {
 public:
  MlpRouter(const Builder& b, const RouterSetup& setup, const MlpRouterConfig& config)
      : TopKRouter(b, behind_hidden_layer(setup, config.hidden_size), config),
        hidden_(parameter(b, "w_hidden", {config.hidden_size, setup.hidden_size},
                          ParameterKind::router)),
        bias_(parameter(b, "b_hidden", {config.hidden_size}, ParameterKind::bias, Init::zeros())) {}

  [[nodiscard]] RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor h =
        gelu_tanh(tape, linear(tape, router_input(context, x), tape.use(hidden_), tape.use(bias_)));
    return from_logits(context, linear(tape, h, tape.use(weight_)));
  }

 private:
  Parameter& hidden_;  // [hidden, D]
  Parameter& bias_;    // [hidden]
};

}  // namespace

const RouterEntry mlp_router = {
    .name = "mlp",
    .doc = "top-k router with a hidden layer (ModuleFormer 2023)",
    .make_config = make_router_config<MlpRouterConfig>,
    .make = make_router<MlpRouter, MlpRouterConfig>,
};

}  // namespace sluice
