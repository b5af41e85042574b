// BASE layers: every expert gets the same number of tokens, at the greatest total affinity.
//
//   training:    the balanced assignment that maximises the sum of z_t,e(t)
//   evaluation:  top-k of z_t
//   weights:     sigmoid(z_t,e)
//
// Lewis et al. 2021, "BASE Layers: Simplifying Training of Large, Sparse Models", section 3. The
// paper's layer is alpha F(x) + (1 - alpha) x with F(x) = x + f(LN x), which is x + alpha f(LN x):
// the ordinary residual block with the weight alpha = sigmoid(z). What differs: the router sees the
// normed state, as the experts do. The paper starts f at zero and the router's rows orthogonal with
// gain 0.1, which a recipe chooses, not a balancer. The method sets the weights itself: `weights`
// and `scale` of the router do not apply; routers with groups, thresholds or null experts are
// refused.
//
// Ours [R]: the assignment is solved exactly (balance/assignment.h) where the paper's auction stops
// within T epsilon of the optimum; k > 1 experts per token, where the paper has one; loads differ
// by at most 1 when E does not divide T k; tokens without a loss take no seat and are routed by the
// prices of the experts. The paper's shuffle of the tokens over ranks is left out: a micro-batch of
// a rank is assigned for itself. Looks at later tokens in training, at none in evaluation.

#include <algorithm>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/top_k.h"
#include "balance/assignment.h"
#include "balance/batch.h"
#include "balance/method.h"

namespace sluice {
namespace {

struct BaseConfig final : Configurable {
  void fields(FieldVisitor& /*v*/) override {}
};

class Base final : public Balancer {
 public:
  Base(const BaseConfig& /*config*/, const BalancerSetup& /*setup*/) {}

  [[nodiscard]] BalancerTraits traits() const override {
    return {.selects = true, .batch_dependent = true};
  }

  /// The plan gives every token k experts, whatever the router would.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query,
                                             const ActiveExperts& /*of_router*/) const override {
    return ActiveExperts::exactly(static_cast<double>(query.top_k));
  }

  void route(const RouterInput& input, Selection& selection) override {
    ArenaScope scratch(thread_arena());
    const Tensor& z = input.router.logits;
    const std::vector<int64_t> tokens =
        input.training ? counted_tokens(input.layout) : std::vector<int64_t>();
    if (tokens.empty()) {
      select_top_k(shifted_rows(scratch, z, {}), z.dim(0), z.dim(1), input.top_k, selection);
      return;
    }
    const BalancedAssignment assignment = assign_balanced(
        rows_of(z, tokens), static_cast<int64_t>(tokens.size()), z.dim(1), input.top_k);
    std::vector<double> shift;
    for (const double price : assignment.price) shift.push_back(-price);
    select_top_k(shifted_rows(scratch, z, shift), z.dim(0), z.dim(1), input.top_k, selection);
    // The prices decide but for ties, which the assignment parts.
    for (size_t t = 0; t < tokens.size(); ++t) {
      std::copy_n(assignment.expert.begin() + static_cast<int64_t>(t) * input.top_k, input.top_k,
                  selection.expert.begin() + tokens[t] * input.top_k);
    }
  }

  [[nodiscard]] Tensor combine_weights(Tape& tape, const RouterInput& input,
                                       const Selection& selection) override {
    return sigmoid(tape,
                   gather_last(tape, input.router.logits, expert_index(tape.pool(), selection)));
  }
};

}  // namespace

const BalancerEntry base_balancer = {
    .name = "base",
    .doc = "exact balanced assignment of every micro-batch (Lewis et al. 2021, BASE layers)",
    .make_config = make_balancer_config<BaseConfig>,
    .make = make_balancer_method<Base, BaseConfig>,
    .passes_over_router = true,
};

}  // namespace sluice
