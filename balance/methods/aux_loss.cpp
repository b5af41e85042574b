// The Switch / GShard auxiliary loss, per micro-batch.
//
//   L = alpha E sum_i f_i P_i,   f_i = c_i / sum_j c_j (constant),   P_i = mean over tokens of p_ti
//
// Fedus, Zoph and Shazeer 2021, "Switch Transformers", equations 4 to 6; Lepikhin et al. 2020,
// "GShard", section 2.2. f is normalised to sum 1 (Megatron, MegaBlocks, OLMo-core, DeepSeek), so
// alpha is the loss at uniform load; Hugging Face's Mixtral sums to k. All k choices count in f,
// where GShard and Switch with two experts count only the first. A micro-batch weighs by its share
// of the step's tokens, not 1 / A.

#include "balance/losses.h"
#include "balance/method.h"

namespace sluice {
namespace {

struct AuxLossConfig final : Configurable {
  Scheduled coefficient = 1e-2;
  LoadSource selection = LoadSource::automatic;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight alpha of the loss, its value at uniform load"}, coefficient,
                {.min = 0.0});
    visit_load_source(v, selection);
  }
};

class AuxLoss final : public Balancer {
 public:
  AuxLoss(AuxLossConfig config, const BalancerSetup& /*setup*/) : config_(std::move(config)) {}
  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& selection,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    const auto chosen = chosen_experts(config_.selection, input, selection);
    const auto fractions =
        load_fractions(count_assignments(chosen, input, 0, input.layout.tokens()));
    losses.push_back(
        {LossKind::balance,
         load_balancing_loss(tape, input, fractions, config_.coefficient.at(input.progress))});
  }

 private:
  AuxLossConfig config_;
};

}  // namespace

const BalancerEntry aux_loss_balancer = {
    .name = "aux_loss",
    .doc = "auxiliary loss on the load of each micro-batch (Fedus et al. 2021, Switch)",
    .make_config = make_balancer_config<AuxLossConfig>,
    .make = make_balancer_method<AuxLoss, AuxLossConfig>,
};

}  // namespace sluice
