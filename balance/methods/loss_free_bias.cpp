// Auxiliary-loss-free balancing: a bias on the ranking, moved once per step against the load.
//
//   route: top-k of s + b (b never enters the combine weights)
//   step:  b_i <- b_i + u sign(c_mean - c_i)           update: sign
//          b_i <- b_i + u (c_mean - c_i) / c_mean      update: proportional
//
// Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", algorithm
// 1; sign(0) = 0. c is the load of the whole global batch, so a batch never influences its own
// routing. The paper's proportional rule has the raw error; dividing by the mean load makes u
// independent of the batch size [R]. `recentre` subtracts the mean of b after each update, which
// changes no route. The rate is tied to the scale of the scores: 1e-3 is for sigmoid scores,
// softmax scores of mean 1 / E want less.

#include <algorithm>
#include <numeric>

#include "balance/method.h"

namespace sluice {
namespace {

enum class Update : uint8_t { sign, proportional };

struct LossFreeBiasConfig final : Configurable {
  Scheduled rate = 1e-3;
  Update update = Update::sign;
  bool recentre = false;

  void fields(FieldVisitor& v) override {
    v.scheduled({"rate", "step u of the bias, in units of the scores"}, rate, {.min = 0.0});
    v.enumeration({"update",
                   "sign: every bias moves by the rate; proportional: by the rate times the "
                   "relative error of the load"},
                  update, {{"sign", Update::sign}, {"proportional", Update::proportional}});
    v.boolean({"recentre", "subtract the mean bias after each update; changes no route"}, recentre);
  }
};

class LossFreeBias final : public Balancer {
 public:
  LossFreeBias(LossFreeBiasConfig config, const BalancerSetup& setup)
      : config_(std::move(config)), bias_(static_cast<size_t>(setup.experts), 0.0) {}

  [[nodiscard]] BalancerTraits traits() const override { return {.selects = true}; }

  void route(const RouterInput& input, Selection& selection) override {
    input.choose(bias_, selection);
  }

  void end_step(const LayerLoad& load, const Progress& progress) override {
    const double experts = static_cast<double>(bias_.size());
    const double mean =
        static_cast<double>(std::accumulate(load.counts.begin(), load.counts.end(), int64_t{0})) /
        experts;
    if (mean == 0.0) return;
    const double rate = config_.rate.at(progress);
    for (size_t e = 0; e < bias_.size(); ++e) {
      const double error = mean - static_cast<double>(load.counts[e]);
      bias_[e] += rate * (config_.update == Update::sign ? sign(error) : error / mean);
    }
    if (!config_.recentre) return;
    const double centre = std::accumulate(bias_.begin(), bias_.end(), 0.0) / experts;
    for (double& bias : bias_) bias -= centre;
  }

  void visit_state(StateVisitor& visitor) override {
    const auto experts = static_cast<int64_t>(bias_.size());
    visitor.array<double>("bias", bias_, std::span(&experts, 1));
  }

  void metrics(std::vector<std::pair<std::string, double>>& metrics) const override {
    const auto [least, greatest] = std::minmax_element(bias_.begin(), bias_.end());
    metrics.emplace_back("bias_range", *greatest - *least);
  }

 private:
  [[nodiscard]] static double sign(double x) {
    return static_cast<double>(x > 0.0) - static_cast<double>(x < 0.0);
  }

  LossFreeBiasConfig config_;
  std::vector<double> bias_;  // [E]
};

}  // namespace

const BalancerEntry loss_free_bias_balancer = {
    .name = "loss_free_bias",
    .doc = "a bias per expert moved against the load once per step (Wang et al. 2024)",
    .make_config = make_balancer_config<LossFreeBiasConfig>,
    .make = make_balancer_method<LossFreeBias, LossFreeBiasConfig>,
};

}  // namespace sluice
