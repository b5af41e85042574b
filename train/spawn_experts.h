#pragma once
// Making experts from the one that was trained first: the end of EvoMoE's expert-diversify phase
// (Nie et al. 2021, arXiv 2112.14397; the rule and its numbers are ours [R]).
//
//   theta_i = theta * m_i + n_i,   m_i ~ Bernoulli(1 - mask),   n_i ~ N(0, (noise std(theta))^2)
//
// elementwise and independent for every expert i and every stack of weights, theta being those of
// the layer's expert 0. Without mask and noise all experts are equal, and any weights that sum to 1
// give the output of the one.

#include <cstdint>
#include <span>
#include <string>

#include "autograd/core/parameter.h"
#include "layers/ffns/moe.h"
#include "optim/optimizer.h"

namespace sluice {

struct Recipe;

/// Overwrites the routed experts among `parameters`, and the optimizer's moments of them: with those
/// of expert 0, or with zeros. The numbers follow from the seed, the parameters' names and
/// config.steps.
void spawn_experts(std::span<Parameter* const> parameters, Optimizer& optimizer,
                   const DiversifyConfig& config, uint64_t seed);

/// Throws ConfigError, `where` (a file) in front, for the model of `recipe` after so many steps while
/// one expert stands for all of a layer.
void check_experts_spawned(const Recipe& recipe, int64_t step, const std::string& where);

}  // namespace sluice
