#include "layers/momentum.h"

#include "autograd/ops/elementwise.h"
#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr std::string_view kMomentum = "momentum";
constexpr double kAdamEpsilon = 1e-8;

/// -gamma1 p / (v + epsilon)^(1/2)
Tensor adam_step(Tape& tape, const AdamStepConfig& config, const Tensor& f) {
  const Tensor v = scale(tape, square(tape, f), 1.0 - config.betas[1]);
  const Tensor inverse_root =
      exp(tape, scale(tape, log(tape, add_constant(tape, v, kAdamEpsilon)), -0.5));
  return scale(tape, mul(tape, f, inverse_root), -config.rate * (1.0 - config.betas[0]));
}

}  // namespace

void AdamStepConfig::fields(FieldVisitor& v) {
  v.number({"rate", "gamma1, the length of the step"}, rate, {});
  v.numbers({"betas", "beta1 of the mean, beta2 of the square"}, betas, {.min = 0.0, .max = 1.0});
}

std::string AdamStepConfig::check() const {
  if (betas.size() != 2) {
    return fmt::format("betas: found {} numbers, allowed 2 (beta1, beta2)", betas.size());
  }
  if (betas[1] == 1.0) return "betas: found 1 as beta2, allowed from 0 to below 1";
  return {};
}

void MomentumConfig::fields(FieldVisitor& v) {
  v.scheduled({"decay", "mu: how much of the momentum stays from one expert layer to the next"},
              decay, {.min = 0.0, .max = 1.0});
  v.scheduled({"rate", "gamma: weight of an expert layer's output, which is subtracted"}, rate, {});
  v.optional_object(
      {"first_adam", "the first expert layer takes an Adam step (AdamSMoE); none: as the others"},
      first_adam, [] { return std::make_shared<AdamStepConfig>(); }, "none");
}

Tensor momentum_step(const ForwardContext& context, const MomentumConfig& config, bool is_first,
                     const Tensor& f, BlockState& state) {
  Tape& tape = context.tape;
  Tensor m = scale(tape, f, config.rate.at(context.progress));
  if (const Tensor* earlier = state.side.find(kMomentum)) {
    m = add_scaled(tape, m, *earlier, config.decay.at(context.progress));
  }
  state.side[kMomentum] = m;
  const auto* adam = dynamic_cast<const AdamStepConfig*>(config.first_adam.get());
  return is_first && adam != nullptr ? adam_step(tape, *adam, f) : scale(tape, m, -1.0);
}

}  // namespace sluice
