// The auxiliary loss of each sequence, averaged over sequences.
//
//   L = alpha (1 / B) sum_s sum_i f_i^s P_i^s,   f_i^s = E c_i^s / (k T_s)
//
// DeepSeek-AI 2024, "DeepSeek-V2", equations 23 to 25, and "DeepSeek-V3", equations 17 to 20, where
// it complements the bias of loss_free_bias and takes f from the scores without it (`selection:
// unbiased`). T_s counts the tokens with a loss; B is the number of sequences of the global batch,
// so that micro-batches add up. Packed documents share the sequence's statistics.

#include "balance/losses.h"
#include "balance/method.h"

namespace sluice {
namespace {

struct SequenceAuxLossConfig final : Configurable {
  Scheduled coefficient = 1e-4;
  LoadSource selection = LoadSource::automatic;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight alpha of the loss, its value at uniform load"}, coefficient,
                {.min = 0.0});
    visit_load_source(v, selection);
  }
};

class SequenceAuxLoss final : public Balancer {
 public:
  SequenceAuxLoss(SequenceAuxLossConfig config, const BalancerSetup& /*setup*/)
      : config_(std::move(config)) {}
  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& selection,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    const auto chosen = chosen_.of(config_.selection, input, selection);
    losses.push_back(
        {LossKind::balance,
         sequence_balancing_loss(tape, input, chosen, config_.coefficient.at(input.progress))});
  }

 private:
  SequenceAuxLossConfig config_;
  ChosenExperts chosen_;
};

}  // namespace

const BalancerEntry sequence_aux_loss_balancer = {
    .name = "sequence_aux_loss",
    .doc = "auxiliary loss on the load of each sequence (DeepSeek-AI 2024, DeepSeek-V2 and V3)",
    .make_config = make_balancer_config<SequenceAuxLossConfig>,
    .make = make_balancer_method<SequenceAuxLoss, SequenceAuxLossConfig>,
};

}  // namespace sluice
