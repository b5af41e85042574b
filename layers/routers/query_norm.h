#pragma once
// Routing without parameters: the heads of attention with the longest queries (MoH, Jin et al. 2024,
// section 4.3, for models that were trained with all heads). With q_h the query of routed head h before
// rotation, R routed heads:
//
//   s_h = |q_h|_2 / std over h of |q_h|_2,   p = softmax(s),   the top k of p are chosen
//   g_h = 1 for the heads chosen, 0 for the others; its gradient goes to p (straight through)
//
// The standard deviation is the unbiased one. Softmax does not see a shift, so s is computed as the
// layer normalisation of the norms, times ((R - 1) / R)^(1/2). To which heads' p the gradient goes is
// reconstructed: to all of them, those not chosen included.
//
// Letters: N tokens, H heads, R routed ones, the last, P head width.

#include "layers/router.h"

namespace sluice {

/// |q_h| of the last R heads: q [N, H, P] -> [N, R].
[[nodiscard]] Tensor query_norms(Tape& tape, const Tensor& q, int64_t R);

/// 1 where p's expert is chosen, else 0, with the gradient of p: p [N, R] -> [N, R].
[[nodiscard]] Tensor straight_through(Tape& tape, const Tensor& p, const Selection& selection);

/// The router whose input is query_norms(). Combine weights are p of the chosen.
class QueryNormRouter final : public Router {
 public:
  [[nodiscard]] RouterScores score(const ForwardContext& context, const Tensor& x) const override;
  void choose(const ForwardContext& context, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override;
  [[nodiscard]] Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                                       const Selection& selection) const override;
};

}  // namespace sluice
