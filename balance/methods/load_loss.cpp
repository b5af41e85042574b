// The load loss: the number of tokens that each expert is likely to get should be even.
//
//   L = w CV^2(Load),   Load_i = sum over tokens of P(expert i is chosen when its noise is redrawn)
//
// Shazeer et al. 2017, "Outrageously Large Neural Networks", appendix A, equations 8 to 11. The
// probability comes from the noise of the router (noisy_top_k), without which the load is a step
// function and has no gradient: other routers are refused, and while the router's `noise` is
// scheduled to 0 there is no loss. A shift of another balancer does not enter the probability. The
// authors' code divides the variance by E - 1 and adds 1e-10 to the squared mean. Default weight 0.1
// [R].
//
// CV^2 is of the micro-batch, which weighs by its share of the step's tokens: cutting a step into
// other micro-batches changes the loss. The paper adds importance_loss.

#include "autograd/ops/elementwise.h"
#include "balance/losses.h"
#include "balance/method.h"
#include "balance/variation.h"

namespace sluice {
namespace {

struct LoadLossConfig final : Configurable {
  Scheduled coefficient = 0.1;
  Variance variance = Variance::unbiased;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight of the squared coefficient of variation"}, coefficient,
                {.min = 0.0});
    visit_variance(v, variance);
  }
};

class LoadLoss final : public Balancer {
 public:
  LoadLoss(LoadLossConfig config, const BalancerSetup& /*setup*/) : config_(std::move(config)) {}
  [[nodiscard]] BalancerTraits traits() const override { return {.needs_noise = true}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& /*selection*/,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    if (!input.router.noise_scale.defined()) return;
    const Tensor load = smooth_load(tape, input);
    const double weight = config_.coefficient.at(input.progress) * share_of_global_batch(input);
    losses.push_back(
        {LossKind::balance, scale(tape, squared_variation(tape, load, config_.variance), weight)});
  }

 private:
  LoadLossConfig config_;
};

}  // namespace

const BalancerEntry load_loss_balancer = {
    .name = "load_loss",
    .doc = "squared variation of the experts' expected loads under noise (Shazeer et al. 2017)",
    .make_config = make_balancer_config<LoadLossConfig>,
    .make = make_balancer_method<LoadLoss, LoadLossConfig>,
};

}  // namespace sluice
