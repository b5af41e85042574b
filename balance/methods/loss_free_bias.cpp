// Auxiliary-loss-free balancing: a bias on the ranking, moved once per step against the load.
//
//   route: top-k of s + b (b never enters the combine weights)
//   step:  b_i <- b_i + u_n d_i,   with e_i = (c_mean - c_i) / c_mean and
//
//          d_i = sign(e_i)                             update: sign
//          d_i = e_i                                   update: proportional
//          d_i = e_i / sqrt(mean over j of e_j^2)      update: normalised
//          u_n = rate, rate / n or rate / sqrt(n)      step: constant, inverse or inverse_sqrt
//
// Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts", algorithm
// 1; sign(0) = 0. c is the load of the whole global batch, so a batch never influences its own
// routing. The paper's proportional rule has the raw error; dividing by the mean load makes u
// independent of the batch size [R] (a raw rate r is the rate r c_mean). `normalised` keeps the
// direction of the proportional rule and the length of the sign rule [R]. `recentre` subtracts the
// mean of b after each update, which changes no route. The rate is tied to the scale of the scores:
// 1e-3 is for sigmoid scores, softmax scores of mean 1 / E want less.
//
//   form: multiplicative   top-k of s b, b = 1 at first, with the same step:
//
//          b_i <- max(b_i + u_n d_i, b_i / 2)
//
// is the paper's other form, which it finds slightly worse. The paper leaves open what keeps b above
// 0; that a step takes at most half of it is ours [R], and so is that `recentre` divides by the mean
// of b [R], which changes no route either and holds every b between 0 and E. The rate is then in
// units of b, whatever the scale of the scores. A score of 0 stays 0 under any b, so what the router
// excludes stays excluded; scores are taken to be 0 or more (norm_router: while its gain is).
//
// `step` is the choice of step sizes of "A Theoretical Framework for Auxiliary-Loss-Free Load
// Balancing" (2025, arXiv 2512.03915), which reads the update as a step on the dual of the
// assignment problem: 1 / n has logarithmic, 1 / sqrt(n) square-root expected regret. n counts the
// updates made, from 1, and is part of the state. The theory's update is the proportional one; its
// scale, and that the decay combines with every update, are ours [R]. Decaying steps want a larger
// rate: start at 0.1.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "autograd/support/parallel.h"
#include "balance/batch.h"
#include "balance/method.h"

namespace sluice {
namespace {

/// Tokens handled at once.
constexpr int64_t kTokenBlock = 512;
/// Where halving ends.
constexpr double kLeastFactor = std::numeric_limits<double>::min();

enum class Form : uint8_t { additive, multiplicative };
enum class Update : uint8_t { sign, proportional, normalised };
enum class Step : uint8_t { constant, inverse, inverse_sqrt };

struct LossFreeBiasConfig final : Configurable {
  Scheduled rate = 1e-3;
  Form form = Form::additive;
  Update update = Update::sign;
  Step step = Step::constant;
  bool recentre = false;

  void fields(FieldVisitor& v) override {
    v.scheduled(
        {"rate",
         "step u of the bias, in units of the scores (paper: 0.001 with sigmoid scores; less "
         "with softmax; decaying steps: from 0.1); multiplicative: of a bias that is 1 at first"},
        rate, {.min = 0.0});
    v.enumeration({"form",
                   "additive: experts are ranked by score + bias, bias 0 at first; multiplicative: "
                   "by score * bias, bias 1 at first (paper: slightly worse)"},
                  form, {{"additive", Form::additive}, {"multiplicative", Form::multiplicative}});
    v.enumeration({"update",
                   "sign: every bias moves by the rate; proportional: by the rate times the "
                   "relative error of the load; normalised: the same over its root mean square"},
                  update,
                  {{"sign", Update::sign},
                   {"proportional", Update::proportional},
                   {"normalised", Update::normalised}});
    v.enumeration({"step",
                   "rate of the n-th update: constant; inverse: over n; inverse_sqrt: over the "
                   "square root of n"},
                  step,
                  {{"constant", Step::constant},
                   {"inverse", Step::inverse},
                   {"inverse_sqrt", Step::inverse_sqrt}});
    v.boolean({"recentre",
               "subtract the mean bias after each update (multiplicative: divide by it); changes "
               "no route"},
              recentre);
  }
};

class LossFreeBias final : public Balancer {
 public:
  LossFreeBias(LossFreeBiasConfig config, const BalancerSetup& setup)
      : config_(std::move(config)),
        is_factor_(config_.form == Form::multiplicative),
        bias_(static_cast<size_t>(setup.experts), is_factor_ ? 1.0 : 0.0) {}

  [[nodiscard]] BalancerTraits traits() const override { return {.selects = true}; }

  void route(const RouterInput& input, Selection& selection) override {
    if (is_factor_) {
      ArenaScope scratch(thread_arena());
      input.choose(shift_to_products(scratch, input.router.scores), selection);
    } else {
      input.choose(bias_, selection);
    }
  }

  void end_step(const LayerLoad& load, const Progress& progress) override {
    const double experts = static_cast<double>(bias_.size());
    const double mean =
        static_cast<double>(std::accumulate(load.counts.begin(), load.counts.end(), int64_t{0})) /
        experts;
    if (mean == 0.0) return;
    ++updates_;
    const double rate = config_.rate.at(progress) * decay();
    const double unit = config_.update == Update::normalised ? root_mean_square(load, mean) : mean;
    for (size_t e = 0; e < bias_.size(); ++e) {
      const double error = mean - static_cast<double>(load.counts[e]);
      // The unit is 0 only when every error is.
      const double relative = error == 0.0 ? 0.0 : error / unit;
      const double moved =
          bias_[e] + rate * (config_.update == Update::sign ? sign(error) : relative);
      bias_[e] = is_factor_ ? std::max({moved, bias_[e] / 2.0, kLeastFactor}) : moved;
    }
    if (!config_.recentre) return;
    const double centre = std::accumulate(bias_.begin(), bias_.end(), 0.0) / experts;
    for (double& bias : bias_) bias = is_factor_ ? bias / centre : bias - centre;
  }

  void visit_state(StateVisitor& visitor) override {
    const auto experts = static_cast<int64_t>(bias_.size());
    visitor.array<double>("bias", bias_, std::span(&experts, 1));
    if (config_.step != Step::constant) visitor.integer("updates", updates_);
  }

  void metrics(std::vector<std::pair<std::string, double>>& metrics) const override {
    const auto [least, greatest] = std::minmax_element(bias_.begin(), bias_.end());
    metrics.emplace_back("bias_range", *greatest - *least);
  }

 private:
  /// s b - s, [N, E]: s plus this ranks as s b does, to the last digits of a double (exactly, where
  /// b is from 1/2 to 2).
  [[nodiscard]] std::span<const double> shift_to_products(ArenaScope& scratch,
                                                          const Tensor& scores) const {
    const std::span<double> shift = shifted_rows(scratch, scores, {});
    const size_t experts = bias_.size();
    parallel_for_ranges(scores.dim(0), kTokenBlock, [&](int64_t begin, int64_t end) {
      for (size_t i = static_cast<size_t>(begin) * experts; i < static_cast<size_t>(end) * experts;
           ++i) {
        const double product = shift[i] * bias_[i % experts];
        shift[i] = product - shift[i];
      }
    });
    return shift;
  }

  [[nodiscard]] static double sign(double x) {
    return static_cast<double>(x > 0.0) - static_cast<double>(x < 0.0);
  }

  /// Root mean square of c_mean - c_i.
  [[nodiscard]] static double root_mean_square(const LayerLoad& load, double mean) {
    double squares = 0.0;
    for (const int64_t count : load.counts) {
      const double error = mean - static_cast<double>(count);
      squares += error * error;
    }
    return std::sqrt(squares / static_cast<double>(load.counts.size()));
  }
  /// What the rate of this update is multiplied by.
  [[nodiscard]] double decay() const {
    const auto n = static_cast<double>(updates_);
    switch (config_.step) {
      case Step::inverse:
        return 1.0 / n;
      case Step::inverse_sqrt:
        return 1.0 / std::sqrt(n);
      case Step::constant:
        break;
    }
    return 1.0;
  }

  LossFreeBiasConfig config_;
  bool is_factor_;            // of the scores, not added to them
  std::vector<double> bias_;  // [E]
  int64_t updates_ = 0;       // n
};

}  // namespace

const BalancerEntry loss_free_bias_balancer = {
    .name = "loss_free_bias",
    .doc = "a bias per expert moved against the load once per step (Wang et al. 2024)",
    .make_config = make_balancer_config<LossFreeBiasConfig>,
    .make = make_balancer_method<LossFreeBias, LossFreeBiasConfig>,
};

}  // namespace sluice
