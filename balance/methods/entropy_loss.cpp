// Entropy losses on the router's probabilities.
//
//   goal: sharpen       L = + beta mean over tokens of H_t    surer of each token
//   goal: spread        L = - beta H_m                        even over the micro-batch
//   goal: concentrate   L = + beta H_m                        onto few experts
//
// with the token entropies H_t and the marginal entropy H_m of balance/entropy.h. `sharpen` is the
// loss of Huang et al. 2024, "Harder Tasks Need More Experts", that keeps top-p routing from
// flattening its probabilities to reach more experts; its weight, 1e-4, is ours [R]. `concentrate`
// is ModuleFormer's load concentration (Shen et al. 2023): for fine-tuning towards few experts, of
// which the idle ones can be pruned; its form is reconstructed [R]. H_m is of the micro-batch, which
// weighs by its share of the step's tokens: cutting a step into other micro-batches changes `spread`
// and `concentrate`, but not `sharpen`.

#include "autograd/ops/elementwise.h"
#include "balance/entropy.h"
#include "balance/losses.h"
#include "balance/method.h"

namespace sluice {
namespace {

enum class Goal : uint8_t { sharpen, spread, concentrate };

struct EntropyLossConfig final : Configurable {
  Scheduled coefficient = 1e-4;
  Goal goal = Goal::sharpen;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight beta of the entropy, in nats"}, coefficient, {.min = 0.0});
    v.enumeration(
        {"goal",
         "sharpen: lower the entropy of each token; spread: raise that of their mean; "
         "concentrate: lower that of their mean"},
        goal,
        {{"sharpen", Goal::sharpen}, {"spread", Goal::spread}, {"concentrate", Goal::concentrate}});
  }
};

class EntropyLoss final : public Balancer {
 public:
  EntropyLoss(EntropyLossConfig config, const BalancerSetup& /*setup*/)
      : config_(std::move(config)) {}
  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& /*selection*/,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    const double coefficient = config_.coefficient.at(input.progress);
    losses.push_back({LossKind::balance, weighted_entropy(tape, input, coefficient)});
  }

 private:
  [[nodiscard]] Tensor weighted_entropy(Tape& tape, const RouterInput& input,
                                        double coefficient) const {
    if (config_.goal == Goal::sharpen) {
      return token_entropy_sum(tape, input, coefficient / static_cast<double>(input.valid_tokens));
    }
    const double sign = config_.goal == Goal::spread ? -1.0 : 1.0;
    return scale(tape, marginal_entropy(tape, input),
                 sign * coefficient * share_of_global_batch(input));
  }

  EntropyLossConfig config_;
};

}  // namespace

const BalancerEntry entropy_loss_balancer = {
    .name = "entropy_loss",
    .doc = "entropy of the routing probabilities, of tokens or of their mean (Huang et al. 2024)",
    .make_config = make_balancer_config<EntropyLossConfig>,
    .make = make_balancer_method<EntropyLoss, EntropyLossConfig>,
};

}  // namespace sluice
