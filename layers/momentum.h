#pragma once
// MomentumSMoE: expert layers as steps of an optimizer (Teo and Nguyen 2024, "MomentumSMoE:
// Integrating Momentum into Sparse Mixture of Experts", arXiv 2410.14574).
//
//   f = MoE(norm(x)),   m <- mu m + gamma f,   x <- x - m
//
// The momentum m [N, D] starts at 0 in every forward pass and goes from expert layer to expert
// layer; what stands between them is untouched. mu = 0 and gamma = -1 is the plain residual x + f.
// Optionally the first expert layer takes an Adam step instead:
//
//   p = (1 - beta1) f,   v = (1 - beta2) f^2,   x <- x - gamma1 p / (v + 1e-8)^(1/2)
//
// (p and v start at 0, and it is the only one, so that the recurrences have one term); m gathers f
// there as elsewhere [R]. m belongs to a token and a pass: there is nothing to checkpoint, and
// decoding computes it again for each new token. Gradients go through all of it. The model's
// dropout falls on the step, not on m [R].

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"
#include "layers/block_state.h"

namespace sluice {

/// The Adam step of the first expert layer.
struct AdamStepConfig final : Configurable {
  double rate = 1.0;                         // gamma1
  std::vector<double> betas = {0.9, 0.999};  // beta1, beta2
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
};

/// `model.experts.momentum` of a recipe.
struct MomentumConfig final : Configurable {
  Scheduled decay = 0.7;                     // mu
  Scheduled rate = 1.0;                      // gamma
  std::shared_ptr<Configurable> first_adam;  // AdamStepConfig, or null
  void fields(FieldVisitor& v) override;
};

/// What is added to the residual stream for the output f [N, D] of an expert layer; brings the
/// momentum in `state.side` up to date. `is_first`: the first expert layer of the model.
[[nodiscard]] Tensor momentum_step(const ForwardContext& context, const MomentumConfig& config,
                                   bool is_first, const Tensor& f, BlockState& state);

}  // namespace sluice
