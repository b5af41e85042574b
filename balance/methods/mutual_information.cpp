// The mutual-information loss: sure of every token, even over all of them.
//
//   L = alpha (mean over tokens of H_t - H_m) = - alpha I(expert; token)
//
// Shen et al. 2023, "ModuleFormer: Modularity Emerges from Mixture-of-Experts", and
// IBM/ModuleFormer, which adds 1e-8 inside the logarithm of H_m. The gradient flows through all
// probabilities; L lies between - alpha log E and 0. The authors average over the calls between two
// updates; here a micro-batch weighs by its share of the step's tokens, and cutting a step into
// other micro-batches changes the loss. Their released configuration has the weight 0; ours, 1e-2,
// is a choice [R]. (Their load concentration is entropy_loss with `goal: concentrate`.)

#include "autograd/ops/elementwise.h"
#include "balance/entropy.h"
#include "balance/losses.h"
#include "balance/method.h"

namespace sluice {
namespace {

struct MutualInformationConfig final : Configurable {
  Scheduled coefficient = 1e-2;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight alpha of the mutual information, in nats"}, coefficient,
                {.min = 0.0});
  }
};

class MutualInformation final : public Balancer {
 public:
  MutualInformation(MutualInformationConfig config, const BalancerSetup& /*setup*/)
      : config_(std::move(config)) {}
  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& /*selection*/,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    const double alpha = config_.coefficient.at(input.progress);
    const Tensor of_tokens =
        token_entropy_sum(tape, input, alpha / static_cast<double>(input.valid_tokens));
    losses.push_back({LossKind::balance, add_scaled(tape, of_tokens, marginal_entropy(tape, input),
                                                    -alpha * share_of_global_batch(input))});
  }

 private:
  MutualInformationConfig config_;
};

}  // namespace

const BalancerEntry mutual_information_balancer = {
    .name = "mutual_information",
    .doc = "mutual information of expert and token, raised (Shen et al. 2023, ModuleFormer)",
    .make_config = make_balancer_config<MutualInformationConfig>,
    .make = make_balancer_method<MutualInformation, MutualInformationConfig>,
};

}  // namespace sluice
