// Sinkhorn routing: tokens choose from a transport plan whose row and column sums are uniform.
//
//   training:    top-k of Pi_t,   Pi = diag(d0) exp(z) diag(d1) with row sums 1/T, column sums 1/E
//   evaluation:  top-k of z_t
//   weights:     a(z) on the chosen experts, not renormalised;  a = sigmoid for k = 1, else softmax
//
// Clark et al. 2022, "Unified Scaling Laws for Routed Language Models" (S-BASE), in the
// form of Megatron-LM. The plan is a constant; the router learns from the weights alone, and an
// auxiliary loss beside it is refused (Megatron-LM wants its coefficient to be 0). The method
// sets the weights itself: `weights` and `scale` of the router do not apply; routers with groups,
// thresholds or null experts are refused.
//
// Ours [R]: the iterations are capped; tokens without a loss take no part in the plan and are
// routed by its expert scaling. Looks at later tokens in training, at none in evaluation.

#include "autograd/ops/elementwise.h"
#include "autograd/ops/softmax.h"
#include "autograd/ops/top_k.h"
#include "balance/batch.h"
#include "balance/method.h"
#include "balance/transport.h"

namespace sluice {
namespace {

struct SinkhornConfig final : Configurable {
  double tolerance = 1e-4;
  int64_t max_iterations = 100;

  void fields(FieldVisitor& v) override {
    v.number({"tolerance", "stop when the scaling of the experts moves less than this on average"},
             tolerance, {.min = 0.0});
    v.integer({"max_iterations", "most scaling iterations per micro-batch"}, max_iterations,
              {.min = 1, .max = 100000});
  }
};

class Sinkhorn final : public Balancer {
 public:
  Sinkhorn(const SinkhornConfig& config, const BalancerSetup& /*setup*/) : config_(config) {}

  [[nodiscard]] BalancerTraits traits() const override {
    return {.selects = true, .batch_dependent = true};
  }

  /// The plan gives every token k experts, whatever the router would.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query,
                                             const ActiveExperts& /*of_router*/) const override {
    return ActiveExperts::exactly(static_cast<double>(query.top_k));
  }

  void route(const RouterInput& input, Selection& selection) override {
    const Tensor& z = input.router.logits;
    std::vector<double> shift;
    if (input.training) {
      const std::vector<int64_t> tokens = counted_tokens(input.layout);
      if (!tokens.empty()) {
        shift = sinkhorn_shift(rows_of(z, tokens), static_cast<int64_t>(tokens.size()), z.dim(1),
                               {config_.tolerance, config_.max_iterations});
      }
    }
    ArenaScope scratch(thread_arena());
    // Rows of the plan rank as z + log d1: the scaling of the token moves all its experts alike.
    select_top_k(shifted_rows(scratch, z, shift), z.dim(0), z.dim(1), input.top_k, selection);
  }

  [[nodiscard]] Tensor combine_weights(Tape& tape, const RouterInput& input,
                                       const Selection& selection) override {
    const Tensor index = expert_index(tape.pool(), selection);
    const Tensor& z = input.router.logits;
    if (selection.top_k == 1) return sigmoid(tape, gather_last(tape, z, index));
    return gather_last(tape, softmax(tape, z), index);
  }

 private:
  SinkhornConfig config_;
};

}  // namespace

const BalancerEntry sinkhorn_balancer = {
    .name = "sinkhorn",
    .doc = "choice from a Sinkhorn transport plan of every micro-batch (Clark et al. 2022, S-BASE)",
    .make_config = make_balancer_config<SinkhornConfig>,
    .make = make_balancer_method<Sinkhorn, SinkhornConfig>,
    .passes_over_router = true,
    .refuses_auxiliary_loss = true,
};

}  // namespace sluice
