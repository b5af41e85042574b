#pragma once
// Entropies of the router's probabilities, in nats.
//
//   token entropy      H_t = - sum_i p_ti log p_ti           how unsure the router is of one token
//   marginal entropy   H_m = - sum_i P_i log P_i             how evenly the micro-batch spreads,
//                                                            P_i = mean over counted tokens of p_ti
//
// H_m is at least the mean of H_t; their difference is the mutual information of expert and token.
//
// Letters: N tokens of the micro-batch, E experts, T of its tokens counted.

#include "layers/routing.h"

namespace sluice {

/// sum over counted t of factor * H_t, one element. A probability of 0 adds 0.
[[nodiscard]] Tensor token_entropy_sum(Tape& tape, const RouterInput& input, double factor);

/// H_m of the micro-batch, one element; 0 without counted tokens. 1e-8 is added inside the
/// logarithm (IBM/ModuleFormer).
[[nodiscard]] Tensor marginal_entropy(Tape& tape, const RouterInput& input);

}  // namespace sluice
