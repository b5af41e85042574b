// The pool-level auxiliary loss of UniPool: layers balance their common load, not each its own.
//
//   L = alpha E <f, P> = sum over layers l of (alpha E / L) sum_i f_i P_i^l
//   f = mean over the L expert layers of f^l of the micro-batch before,   P^l = mean over tokens of
//   s_ti, the scores of layer l
//
// UniPool 2026 (arXiv 2605.06665), after the authors' code. f lags by one micro-batch, since the
// last layer's load is known only when the first one's loss is due; it is a constant, and the first
// micro-batch of a run has no loss. alpha E <f, P> is alpha at uniform load when the scores of a
// token sum to 1; those of norm_router do not, so that the loss also weighs their size, as in the
// authors' code. `scores: probabilities` divides them by their sum first [R].
//
// Experts are pooled by their index. That is one pool where layers share their experts; where every
// layer owns its experts the loss is defined all the same, and asks that the experts of one index
// are used evenly over the depth. Layers without an assignment do not count in f; a micro-batch
// without any leaves it as it was.
//
// The micro-batch before is the one of smaller index on the same rank, or the last of the step
// before. The result depends on how the global batch is cut, as the method is defined by it. At the
// end of a step f is averaged over ranks [R], so that every rank goes on, and resumes, from the
// same. The authors do not save f; here it is state. Every layer keeps its own copy of it.

#include <algorithm>

#include "autograd/support/error.h"
#include "balance/losses.h"
#include "balance/method.h"

namespace sluice {
namespace {

enum class Means : uint8_t { scores, probabilities };

struct PoolAuxLossConfig final : Configurable {
  Scheduled coefficient = 1e-2;
  Means scores = Means::scores;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight alpha of the loss, all layers together"}, coefficient,
                {.min = 0.0});
    v.enumeration({"scores",
                   "what is averaged over tokens: scores, as the router gives them; probabilities, "
                   "the same over their sum"},
                  scores, {{"scores", Means::scores}, {"probabilities", Means::probabilities}});
  }
};

class PoolAuxLoss final : public Balancer {
 public:
  PoolAuxLoss(PoolAuxLossConfig config, const BalancerSetup& setup)
      : config_(std::move(config)),
        layers_(setup.layers),
        fractions_(static_cast<size_t>(setup.experts), 0.0) {}

  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& /*selection*/,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    if (!is_known()) return;
    const Tensor& p =
        config_.scores == Means::scores ? input.router.scores : input.router.probabilities;
    const double of_layer = config_.coefficient.at(input.progress) / static_cast<double>(layers_);
    losses.push_back(
        {LossKind::balance, load_balancing_loss(tape, input, p, fractions_, of_layer)});
  }

  void end_micro_batch(std::span<const Selection* const> layers) override {
    ArenaScope scratch(thread_arena());
    const std::span<double> sum(scratch.allocate<double>(std::ssize(fractions_)),
                                fractions_.size());
    std::ranges::fill(sum, 0.0);
    double loaded = 0.0;
    for (const Selection* selection : layers) {
      const std::span<const double> of_layer = load_fractions(scratch, selection->load);
      SLUICE_CHECK(ConfigError, of_layer.size() == sum.size(),
                   "balance: pool_aux_loss pools the experts of all layers by their index, found "
                   "layers of {} and {} experts; allowed the same number in every layer",
                   sum.size(), of_layer.size());
      loaded += std::any_of(of_layer.begin(), of_layer.end(), [](double f) { return f > 0.0; });
      for (size_t e = 0; e < sum.size(); ++e) sum[e] += of_layer[e];
    }
    if (loaded == 0.0) return;
    for (size_t e = 0; e < sum.size(); ++e) fractions_[e] = sum[e] / loaded;
  }

  void reduce(Communicator& communicator) override {
    if (communicator.size() == 1) return;
    std::vector<double> sums = fractions_;
    sums.push_back(is_known() ? 1.0 : 0.0);
    communicator.sum(std::span<double>(sums));
    if (sums.back() == 0.0) return;
    for (size_t e = 0; e < fractions_.size(); ++e) fractions_[e] = sums[e] / sums.back();
  }

  void visit_state(StateVisitor& visitor) override {
    const auto experts = static_cast<int64_t>(fractions_.size());
    visitor.array<double>("fractions", fractions_, std::span(&experts, 1));
  }

 private:
  [[nodiscard]] bool is_known() const {
    return std::any_of(fractions_.begin(), fractions_.end(), [](double f) { return f > 0.0; });
  }

  PoolAuxLossConfig config_;
  int64_t layers_;
  std::vector<double> fractions_;  // f [E] of the micro-batch before; zeros before the first
};

}  // namespace

const BalancerEntry pool_aux_loss_balancer = {
    .name = "pool_aux_loss",
    .doc =
        "auxiliary loss on the common load of all layers, one micro-batch behind (UniPool 2026, "
        "arXiv 2605.06665)",
    .make_config = make_balancer_config<PoolAuxLossConfig>,
    .make = make_balancer_method<PoolAuxLoss, PoolAuxLossConfig>,
};

}  // namespace sluice
