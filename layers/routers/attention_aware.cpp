// Attention-aware routing: scores are averaged over earlier tokens as the last attention layer
// attended to them (mixed_scores.h; Nguyen et al. 2025, arXiv 2505.00792 [R]).
//
//   S = mean over heads of the attention probabilities of the last attention layer before
//
// Gradients stop at S by default; without `detach` they reach its queries and keys. The attention
// matrix is not held: S p is an attention with the scores as values (attention_map.h). A window of
// the attention is one of S.

#include "autograd/ops/reshape.h"
#include "autograd/support/error.h"
#include "layers/routers/mixed_scores.h"

namespace sluice {
namespace {

struct AttentionAwareConfig final : MixedScoresConfig {
  AttentionAwareConfig() { detach = true; }
  [[nodiscard]] bool reads_attention() const override { return true; }
};

class AttentionAwareRouter final : public MixedScoresRouter {
 public:
  AttentionAwareRouter(const Builder& b, const RouterSetup& setup,
                       const AttentionAwareConfig& config)
      : MixedScoresRouter(b, setup, config), detach_(config.detach) {}

 protected:
  AttentionMap map_of(const ForwardContext& context, const Tensor& /*x*/) const override {
    SLUICE_INTERNAL_CHECK(context.attention != nullptr, "the router was given no attention");
    AttentionMap map = *context.attention;
    if (detach_) {
      map.q = stop_gradient(context.tape, map.q);
      map.k = stop_gradient(context.tape, map.k);
    }
    return map;
  }

 private:
  bool detach_;
};

}  // namespace

const RouterEntry attention_aware_router = {
    .name = "attention_aware",
    .doc =
        "scores averaged over earlier tokens by the attention before (Graph of Tokens 2025, arXiv "
        "2505.00792)",
    .make_config = make_router_config<AttentionAwareConfig>,
    .make = make_router<AttentionAwareRouter, AttentionAwareConfig>,
};

}  // namespace sluice
