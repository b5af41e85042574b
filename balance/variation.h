#pragma once
// How unevenly tokens spread over the experts, as differentiable sums over the micro-batch, and the
// squared coefficient of variation of such a sum.
//
// Shazeer et al. 2017, "Outrageously Large Neural Networks", section 4 and appendix A.
//
// Letters: N tokens of the micro-batch, E experts, k experts per token.

#include <cstdint>

#include "autograd/support/fields.h"
#include "layers/routing.h"

namespace sluice {

/// What the variance is divided by.
enum class Variance : uint8_t {
  unbiased,    // E - 1, as the authors' code
  population,  // E
};

/// `variance:` of the losses that take it.
void visit_variance(FieldVisitor& v, Variance& variance);

/// CV^2 = Var(v) / (mean(v)^2 + 1e-10) of v [E], one element; 0 for one expert and for zeros.
[[nodiscard]] Tensor squared_variation(Tape& tape, const Tensor& v, Variance variance);

/// What an expert's importance adds up.
enum class Importance : uint8_t {
  gates,          // scores of the chosen experts over their sum, as the paper's gates
  probabilities,  // over all experts
};

/// Importance_i = sum over counted t of g_ti, [E]. A single chosen score is taken as it is: divided
/// by itself it would have no gradient.
[[nodiscard]] Tensor importance(Tape& tape, const RouterInput& input, const Selection& selection,
                                Importance of);

/// Load_i = sum over counted t of Phi((h_ti - theta_ti) / noise_scale_ti), [E]: how likely expert i
/// is among the top k of token t when its noise is drawn again and that of the others stays (the
/// paper's equations 8 to 10). h are the clean logits; theta is the (k + 1)-th largest noisy logit
/// of the token for an expert above it and the k-th largest for the others, a constant. Needs
/// RouterScores::noise_scale.
[[nodiscard]] Tensor smooth_load(Tape& tape, const RouterInput& input);

}  // namespace sluice
