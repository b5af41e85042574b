// The auxiliary loss on the load of the whole global batch.
//
//   L_a = alpha E sum_i f_i P_i^a,   f from all micro-batches and ranks,   P^a of micro-batch a
//
// Qiu et al. 2025, "Demons in the Detail: On Implementing Load Balancing Loss for Training
// Specialized Mixture-of-Expert Models", section 3: sum_a L_a is the loss of one large batch, since
// it is linear in P. Gradients flow through P^a only. `counts: running` is the paper's accumulation
// buffer (algorithm 1): f of the micro-batches of the step so far, of which early ones see a part
// only; the buffer is the routing session's load of the step, which begins empty and which
// recomputation and evaluation leave alone. It is summed over ranks in every layer after
// every micro-batch, as in the paper. Ranks may have unequal numbers of micro-batches: one that is
// through joins the sums of the others with nothing (RoutingSession::share_running_loads). Where we
// differ: `counts: exact`, the default, routes the global batch once without gradients, so that
// every micro-batch sees all of it. `counts: previous` takes f of the previous applied step and
// needs no such pass [R]; its first step is uniform, without a gradient. `micro` adds that share of
// the micro-batch's own loss (the paper's 1 %, section 4.4). `selection` is the key of aux_loss: beside a method that shifts the choice
// (loss_free_bias), f is that of a plain top-k of the scores, counted over the same tokens.

#include "balance/losses.h"
#include "balance/method.h"

namespace sluice {
namespace {

enum class Counts : uint8_t { exact, running, previous };

struct GlobalAuxLossConfig final : Configurable {
  Scheduled coefficient = 8e-3;
  Counts counts = Counts::exact;
  LoadSource selection = LoadSource::automatic;
  Scheduled micro = 0.0;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight alpha of the loss, its value at uniform load"}, coefficient,
                {.min = 0.0});
    v.enumeration(
        {"counts",
         "exact: the load of this global batch, found by a pass without gradients; "
         "running: the load of its micro-batches so far; previous: the load of the global "
         "batch before"},
        counts,
        {{"exact", Counts::exact}, {"running", Counts::running}, {"previous", Counts::previous}});
    visit_load_source(v, selection);
    v.scheduled(
        {"micro", "share of the micro-batch's own loss that is added (paper's option: 0.01)"},
        micro, {.min = 0.0});
  }
};

class GlobalAuxLoss final : public Balancer {
 public:
  GlobalAuxLoss(GlobalAuxLossConfig config, const BalancerSetup& setup)
      : config_(std::move(config)), previous_(static_cast<size_t>(setup.experts), 0) {}

  [[nodiscard]] BalancerTraits traits() const override {
    return {.needs_global_counts = config_.counts == Counts::exact,
            .needs_running_counts = config_.counts == Counts::running};
  }

  void count_unbiased(const RouterInput& input, Selection& selection) override {
    if (config_.selection == LoadSource::executed) return;
    ArenaScope scratch(thread_arena());
    const auto counts = count_assignments(scratch, chosen_.of(config_.selection, input, selection),
                                          input, 0, input.layout.tokens());
    selection.unbiased_load.assign(counts.begin(), counts.end());
  }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& selection,
                  const LayerLoad* global_load, std::vector<AuxiliaryLoss>& losses) override {
    ArenaScope scratch(thread_arena());
    const std::span<double> fractions =
        load_fractions(scratch, counts_seen(tape.shapes_only(), input, selection, global_load));
    // Before the first step's load is known every expert is taken to have had its share.
    if (config_.counts == Counts::previous && total(previous_) == 0) {
      std::ranges::fill(fractions, 1.0 / static_cast<double>(fractions.size()));
    }
    const double micro = config_.micro.at(input.progress);
    if (micro > 0.0) {
      // Both losses are linear in P: one sum with the fractions added up does for both.
      const std::span<const double> own = load_fractions(scratch, counts_of(selection));
      for (size_t e = 0; e < fractions.size(); ++e) fractions[e] += micro * own[e];
    }
    losses.push_back(
        {LossKind::balance,
         load_balancing_loss(tape, input, fractions, config_.coefficient.at(input.progress))});
  }

  void end_step(const LayerLoad& load, const Progress& /*progress*/) override {
    const bool is_empty = load.counts.empty() || total(load.counts) == 0;
    if (config_.counts == Counts::previous && !is_empty) previous_ = counts_of(load);
  }

  void visit_state(StateVisitor& visitor) override {
    if (config_.counts != Counts::previous) return;
    const auto experts = static_cast<int64_t>(previous_.size());
    visitor.array<int64_t>("previous_counts", previous_, std::span(&experts, 1));
  }

 private:
  [[nodiscard]] static int64_t total(const std::vector<int64_t>& counts) {
    int64_t sum = 0;
    for (const int64_t count : counts) sum += count;
    return sum;
  }

  /// What `selection:` asks for. Nothing unbiased was counted where a selection was not routed.
  [[nodiscard]] const std::vector<int64_t>& counts_of(const Selection& selection) const {
    const bool is_unbiased =
        config_.selection != LoadSource::executed && !selection.unbiased_load.empty();
    return is_unbiased ? selection.unbiased_load : selection.load;
  }
  [[nodiscard]] const std::vector<int64_t>& counts_of(const LayerLoad& load) const {
    const bool is_unbiased = config_.selection != LoadSource::executed && !load.unbiased.empty();
    return is_unbiased ? load.unbiased : load.counts;
  }

  /// The load [E] that `counts:` asks for.
  [[nodiscard]] const std::vector<int64_t>& counts_seen(bool shapes_only, const RouterInput& input,
                                                        const Selection& selection,
                                                        const LayerLoad* global_load) const {
    if (config_.counts == Counts::previous) return previous_;
    if (config_.counts == Counts::running) {
      const LayerLoad* so_far = input.step_load;
      return so_far == nullptr ? counts_of(selection) : counts_of(*so_far);
    }
    // On shapes alone there is no load to know.
    if (shapes_only) return counts_of(selection);
    SLUICE_INTERNAL_CHECK(global_load != nullptr, "global_aux_loss without the global load");
    return counts_of(*global_load);
  }

  GlobalAuxLossConfig config_;
  ChosenExperts chosen_;
  std::vector<int64_t> previous_;  // [E]; zeros before the first applied step
};

}  // namespace

const BalancerEntry global_aux_loss_balancer = {
    .name = "global_aux_loss",
    .doc = "auxiliary loss on the load of the whole global batch (Qiu et al. 2025)",
    .make_config = make_balancer_config<GlobalAuxLossConfig>,
    .make = make_balancer_method<GlobalAuxLoss, GlobalAuxLossConfig>,
};

}  // namespace sluice
