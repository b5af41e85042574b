// Noisy top-k gating (Shazeer et al. 2017, equations 3 to 5).
//
// z = x Wg^T + noise * (softplus(x Wn^T) + 0.01) * eps, eps ~ N(0, 1) per token and expert, in
// training only; selection and weights both see the noisy logits. Wg and Wn start at zero, as in
// the paper: equal loads at first. The paper's losses are importance_loss and load_loss (balance).
// `noise` multiplies the noise and may be scheduled (ours; 1 is the paper).

#include "autograd/ops/dropout.h"
#include "autograd/ops/elementwise.h"
#include "autograd/ops/matmul.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

constexpr double kNoiseFloor = 1e-2;

struct NoisyTopKConfig final : TopKRouterConfig {
  Scheduled noise = 1.0;
  void fields(FieldVisitor& v) override {
    TopKRouterConfig::fields(v);
    v.scheduled({"noise", "factor on the learned noise, in training (paper: 1)"}, noise,
                {.min = 0.0});
  }
  [[nodiscard]] bool adds_noise() const override { return true; }
};

class NoisyTopKRouter final : public TopKRouter {
 public:
  NoisyTopKRouter(const Builder& b, const RouterSetup& setup, const NoisyTopKConfig& config)
      : TopKRouter(b, setup, config),
        noise_weight_(parameter(b, "noise_weight", {setup.num_experts, setup.hidden_size},
                                ParameterKind::router, Init::zeros())),
        noise_(config.noise) {
    weight_.value.fill_zero();
  }

  RouterScores score(const ForwardContext& context, const Tensor& x) const override {
    Tape& tape = context.tape;
    const Tensor input = router_input(context, x);
    const Tensor clean = linear(tape, input, tape.use(weight_));
    const double factor = context.training ? noise_.at(context.progress) : 0.0;
    if (factor == 0.0) return from_logits(context, clean);
    const Tensor spread = add_constant(
        tape, softplus(tape, linear(tape, input, tape.use(noise_weight_))), kNoiseFloor);
    const SequenceLayout& layout = context.layout;
    const Tensor noise = normal_noise(tape, clean.shape(), clean.dtype(),
                                      {context.random_key(RandomPurpose::router_noise, layer_),
                                       layout.sequence_offsets, layout.global_samples});
    const Tensor noise_scale = scale(tape, spread, factor);
    RouterScores scores = from_logits(context, add(tape, clean, mul(tape, noise_scale, noise)));
    scores.clean_logits = clean;
    scores.noise_scale = noise_scale;
    return scores;
  }

 private:
  Parameter& noise_weight_;  // [E, D]
  Scheduled noise_;
};

}  // namespace

const RouterEntry noisy_top_k_router = {
    .name = "noisy_top_k",
    .doc = "top-k of logits with learned Gaussian noise (Shazeer et al. 2017, arXiv 1701.06538)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<NoisyTopKConfig>();
    },
    .make = [](const Builder& b, const RouterSetup& setup,
               const Configurable& config) -> std::unique_ptr<Router> {
      return std::make_unique<NoisyTopKRouter>(b, setup,
                                               dynamic_cast<const NoisyTopKConfig&>(config));
    },
};

}  // namespace sluice
