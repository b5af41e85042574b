// The importance loss: the weight that each expert gets over the micro-batch should be even.
//
//   L = w CV^2(Importance),   Importance_i = sum over tokens of g_ti
//
// Shazeer et al. 2017, "Outrageously Large Neural Networks", equations 6 and 7; g are the gates: the
// scores of the chosen experts over their sum. `of: probabilities` takes the scores of all experts
// instead. The paper's code divides the variance by E - 1 and adds 1e-10 to the squared mean.
// Default weight 0.1 [R].
//
// CV^2 is of the micro-batch, which weighs by its share of the step's tokens: cutting a step into
// other micro-batches changes the loss. The paper's second loss is load_loss.

#include "autograd/ops/elementwise.h"
#include "balance/losses.h"
#include "balance/method.h"
#include "balance/variation.h"

namespace sluice {
namespace {

struct ImportanceLossConfig final : Configurable {
  Scheduled coefficient = 0.1;
  Importance of = Importance::gates;
  Variance variance = Variance::unbiased;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight of the squared coefficient of variation"}, coefficient,
                {.min = 0.0});
    v.enumeration(
        {"of", "gates: scores of the chosen experts over their sum; probabilities: of all experts"},
        of, {{"gates", Importance::gates}, {"probabilities", Importance::probabilities}});
    visit_variance(v, variance);
  }
};

class ImportanceLoss final : public Balancer {
 public:
  ImportanceLoss(ImportanceLossConfig config, const BalancerSetup& /*setup*/)
      : config_(std::move(config)) {}
  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& selection,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    const Tensor of_experts = importance(tape, input, selection, config_.of);
    const double weight = config_.coefficient.at(input.progress) * share_of_global_batch(input);
    losses.push_back({LossKind::balance,
                      scale(tape, squared_variation(tape, of_experts, config_.variance), weight)});
  }

 private:
  ImportanceLossConfig config_;
};

}  // namespace

const BalancerEntry importance_loss_balancer = {
    .name = "importance_loss",
    .doc = "squared variation of the experts' summed gates (Shazeer et al. 2017)",
    .make_config = make_balancer_config<ImportanceLossConfig>,
    .make = make_balancer_method<ImportanceLoss, ImportanceLossConfig>,
};

}  // namespace sluice
