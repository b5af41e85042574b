#pragma once
// The linear top-k router and what its variants share.
//
// Logits z = x W^T, W [E, D], without bias, in the model's dtype (f32: design section 4). Scores:
// softmax (Shazeer et al. 2017, Switch, Mixtral) or sigmoid (DeepSeek-V3). Combine weights of the
// chosen experts: `renormalise` s / sum of chosen s; `as_is` s; `softmax_after` softmax over the
// chosen logits (equal to renormalise for softmax scores); `straight_through` 1, with the gradient of
// `as_is` (Hecto 2025). All times `scale`. The balancer's shift moves the choice only, never the weights.

#include <string>

#include "layers/router.h"

namespace sluice {

struct TopKRouterConfig : RouterConfig {
  std::string scores = "softmax";
  std::string weights = "renormalise";
  double scale = 1.0;
  Scheduled jitter = 0.0;
  void fields(FieldVisitor& v) override;
  [[nodiscard]] std::string check() const override;
  [[nodiscard]] std::string check_against(int64_t num_experts, int64_t top_k) const override;
};

class TopKRouter : public Router {
 public:
  TopKRouter(const Builder& b, const RouterSetup& setup, const TopKRouterConfig& config);
  [[nodiscard]] RouterScores score(const ForwardContext& context, const Tensor& x) const override;
  void choose(const ForwardContext& context, const RouterScores& scores,
              std::span<const double> shift, int64_t top_k, Selection& selection) const override;
  [[nodiscard]] Tensor combine_weights(const ForwardContext& context, const RouterScores& scores,
                                       const Selection& selection) const override;

 protected:
  /// x, jittered in training.
  [[nodiscard]] Tensor router_input(const ForwardContext& context, const Tensor& x) const;
  /// Scores and probabilities of given logits.
  [[nodiscard]] RouterScores from_logits(const ForwardContext& context, const Tensor& logits) const;
  Parameter& weight_;  // [E, D]
  int64_t layer_;

 private:
  TopKRouterConfig config_;
};

}  // namespace sluice
