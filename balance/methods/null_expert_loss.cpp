// AdaMoE's balancing loss over true and null experts (Zeng et al. 2024, arXiv 2406.13233), for
// the router null_experts.
//
//   L = alpha (E + Z) sum_i f~_i P_i over E true and Z null experts,   P_i = mean over tokens of p_ti
//   f~_i = c_i / (T k) for a true expert,   f~ = (null choices) / (T k Z) for every null one
//
// The null experts are interchangeable: only their average use is controlled. f is normalised to
// sum 1 and constant, alpha is the loss at uniform use. The empty slots of the selection are its
// null choices. With a router without null experts this is aux_loss of the executed selection.

#include <algorithm>

#include "autograd/ops/reshape.h"
#include "balance/losses.h"
#include "balance/method.h"

namespace sluice {
namespace {

struct NullExpertLossConfig final : Configurable {
  Scheduled coefficient = 1e-2;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight alpha of the loss, its value at uniform use"}, coefficient,
                {.min = 0.0});
  }
};

/// Empty slots of counted tokens.
int64_t null_choices(const Selection& selection, const SequenceLayout& layout) {
  int64_t count = 0;
  for (int64_t token = 0; token < selection.tokens; ++token) {
    if (layout.counted[static_cast<size_t>(token)] == 0) continue;
    const auto slots = selection.expert.begin() + token * selection.top_k;
    count += std::count(slots, slots + selection.top_k, kNoExpert);
  }
  return count;
}

class NullExpertLoss final : public Balancer {
 public:
  NullExpertLoss(NullExpertLossConfig config, const BalancerSetup& /*setup*/)
      : config_(std::move(config)) {}
  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& selection,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    const double coefficient = config_.coefficient.at(input.progress);
    ArenaScope scratch(thread_arena());
    const Tensor& null_scores = input.router.null_scores;
    if (!null_scores.defined()) {
      const auto fractions = load_fractions(scratch, selection.load);
      losses.push_back(
          {LossKind::balance, load_balancing_loss(tape, input, fractions, coefficient)});
      return;
    }
    const auto nulls = static_cast<size_t>(null_scores.dim(1));
    std::vector<int64_t> counts = selection.load;
    counts.push_back(null_choices(selection, input.layout));
    const std::span<const double> shares = load_fractions(scratch, counts);
    std::vector<double> fractions(shares.begin(), shares.end());
    const double of_each = fractions.back() / static_cast<double>(nulls);
    fractions.pop_back();
    fractions.resize(fractions.size() + nulls, of_each);

    const Tensor parts[] = {input.router.scores, null_scores};
    RouterScores all = input.router;
    all.probabilities = concat_columns(tape, parts);
    const RouterInput wide{all,
                           input.layout,
                           input.top_k,
                           input.progress,
                           input.valid_tokens,
                           input.global_sequences,
                           input.training,
                           input.choose};
    losses.push_back({LossKind::balance, load_balancing_loss(tape, wide, fractions, coefficient)});
  }

 private:
  NullExpertLossConfig config_;
};

}  // namespace

const BalancerEntry null_expert_loss_balancer = {
    .name = "null_expert_loss",
    .doc = "balances true experts, and null ones as a whole (AdaMoE 2024, arXiv 2406.13233)",
    .make_config = make_balancer_config<NullExpertLossConfig>,
    .make = make_balancer_method<NullExpertLoss, NullExpertLossConfig>,
};

}  // namespace sluice
