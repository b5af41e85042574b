// The router z-loss keeps logits small; it balances nothing and combines with any method.
//
//   L = beta mean over tokens of (log sum_i exp z_ti)^2
//
// Zoph et al. 2022, "ST-MoE", equation 5, on logits before any bias. Layers are summed; `layers:
// mean` divides by their number, as some code bases do.

#include "balance/losses.h"
#include "balance/method.h"

namespace sluice {
namespace {

enum class Layers : uint8_t { sum, mean };

struct RouterZLossConfig final : Configurable {
  Scheduled coefficient = 1e-3;
  Layers layers = Layers::sum;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight beta of the mean squared log-sum-exp of the logits"},
                coefficient, {.min = 0.0});
    v.enumeration({"layers", "sum over the expert layers, or their mean"}, layers,
                  {{"sum", Layers::sum}, {"mean", Layers::mean}});
  }
};

class RouterZLoss final : public Balancer {
 public:
  RouterZLoss(RouterZLossConfig config, const BalancerSetup& setup)
      : config_(std::move(config)),
        share_(config_.layers == Layers::mean ? 1.0 / static_cast<double>(setup.layers) : 1.0) {}

  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& /*selection*/,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    const double coefficient = config_.coefficient.at(input.progress) * share_;
    losses.push_back({LossKind::router_z, z_loss(tape, input, coefficient)});
  }

 private:
  RouterZLossConfig config_;
  double share_;  // of this layer in the loss
};

}  // namespace

const BalancerEntry router_z_loss_balancer = {
    .name = "router_z_loss",
    .doc = "mean squared log-sum-exp of the router's logits (Zoph et al. 2022, ST-MoE)",
    .make_config = make_balancer_config<RouterZLossConfig>,
    .make = make_balancer_method<RouterZLoss, RouterZLossConfig>,
    .ignores_load = true,
};

}  // namespace sluice
