// The auxiliary loss of Branch-Train-MiX (Sukhbaatar et al. 2024, arXiv 2403.07816, section 3.2): that of
// Switch with the gates that experts get in the place of the tokens that they get.
//
//   L = w E sum_i u_i p_i,   u_i = mean over tokens of g_ti,   p_i = mean over tokens of softmax(z_t)_i
//
// g are the gates: the scores of the chosen experts over their sum. Unlike a count, u has a gradient, so
// that it flows through both factors. Default weight 0.01.
//
// Means are of the micro-batch, which weighs by its share of the step's tokens.

#include <algorithm>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"
#include "balance/losses.h"
#include "balance/method.h"
#include "balance/variation.h"

namespace sluice {
namespace {

struct GateAuxLossConfig final : Configurable {
  Scheduled coefficient = 1e-2;
  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight of the loss"}, coefficient, {.min = 0.0});
  }
};

class GateAuxLoss final : public Balancer {
 public:
  GateAuxLoss(GateAuxLossConfig config, const BalancerSetup& /*setup*/)
      : config_(std::move(config)) {}
  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& selection,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    const Tensor gates = importance(tape, input, selection, Importance::gates);              // [E]
    const Tensor probable = importance(tape, input, selection, Importance::probabilities);  // [E]
    const auto tokens = static_cast<double>(std::max<int64_t>(1, input.layout.counted_tokens()));
    const double weight = config_.coefficient.at(input.progress) *
                          static_cast<double>(gates.dim(0)) * share_of_global_batch(input) /
                          (tokens * tokens);
    losses.push_back(
        {LossKind::balance, scale(tape, sum(tape, mul(tape, gates, probable)), weight)});
  }

 private:
  GateAuxLossConfig config_;
};

}  // namespace

const BalancerEntry gate_aux_loss_balancer = {
    .name = "gate_aux_loss",
    .doc = "mean gate times mean probability of each expert (Branch-Train-MiX, Sukhbaatar et al. 2024, "
           "arXiv 2403.07816)",
    .make_config = make_balancer_config<GateAuxLossConfig>,
    .make = make_balancer_method<GateAuxLoss, GateAuxLossConfig>,
};

}  // namespace sluice
