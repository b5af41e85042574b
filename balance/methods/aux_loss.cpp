// The Switch / GShard auxiliary loss, per micro-batch.
//
//   L = alpha E sum_i f_i P_i,   f_i = c_i / sum_j c_j (constant),   P_i = mean over tokens of p_ti
//
// Fedus, Zoph and Shazeer 2021, "Switch Transformers", equations 4 to 6; Lepikhin et al. 2020,
// "GShard", section 2.2. f is normalised to sum 1 (Megatron, MegaBlocks, OLMo-core, DeepSeek), so
// alpha is the loss at uniform load. `fractions: tokens` takes f_i = c_i / T of T tokens, which sums
// to the mean number of experts per token: k (Hugging Face's Mixtral), or for routers that vary it
// (top_p, dense_to_sparse) what their papers train with. All k choices count in f; `choices: first`
// counts only the best, as GShard and Switch do with two experts. A micro-batch weighs by its share
// of the step's tokens, not 1 / A.

#include <algorithm>

#include "balance/losses.h"
#include "balance/method.h"

namespace sluice {
namespace {

enum class Fractions : uint8_t { assignments, tokens };
enum class Choices : uint8_t { all, first };

struct AuxLossConfig final : Configurable {
  Scheduled coefficient = 1e-2;
  LoadSource selection = LoadSource::automatic;
  Fractions fractions = Fractions::assignments;
  Choices choices = Choices::all;

  void fields(FieldVisitor& v) override {
    v.scheduled({"coefficient", "weight alpha of the loss, its value at uniform load"}, coefficient,
                {.min = 0.0});
    visit_load_source(v, selection);
    v.enumeration(
        {"fractions",
         "load of an expert over all assignments, or over all tokens: then the loss is as "
         "many times larger as a token has experts"},
        fractions, {{"assignments", Fractions::assignments}, {"tokens", Fractions::tokens}});
    v.enumeration({"choices", "which of a token's experts count in its load: all, or the first"},
                  choices, {{"all", Choices::all}, {"first", Choices::first}});
  }
};

class AuxLoss final : public Balancer {
 public:
  AuxLoss(AuxLossConfig config, const BalancerSetup& /*setup*/) : config_(std::move(config)) {}
  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& selection,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    ArenaScope scratch(thread_arena());
    std::span<const int32_t> chosen = chosen_.of(config_.selection, input, selection);
    if (config_.choices == Choices::first) chosen = first_choices(scratch, input, chosen);
    const auto counts = count_assignments(scratch, chosen, input, 0, input.layout.tokens());
    const std::span<double> fractions = load_fractions(scratch, counts);
    if (config_.fractions == Fractions::tokens) {
      const auto tokens = static_cast<double>(std::max<int64_t>(1, input.layout.counted_tokens()));
      std::transform(counts.begin(), counts.end(), fractions.begin(),
                     [&](int64_t count) { return static_cast<double>(count) / tokens; });
    }
    losses.push_back(
        {LossKind::balance,
         load_balancing_loss(tape, input, fractions, config_.coefficient.at(input.progress))});
  }

 private:
  /// The first of every token's slots in `chosen` [N, k]: [N, 1].
  static std::span<const int32_t> first_choices(ArenaScope& scratch, const RouterInput& input,
                                                std::span<const int32_t> chosen) {
    const size_t tokens = input.layout.counted.size();
    const size_t slots = chosen.size() / std::max<size_t>(1, tokens);
    const std::span<int32_t> first(scratch.allocate<int32_t>(static_cast<int64_t>(tokens)), tokens);
    for (size_t t = 0; t < tokens; ++t) first[t] = chosen[t * slots];
    return first;
  }

  AuxLossConfig config_;
  ChosenExperts chosen_;
};

}  // namespace

const BalancerEntry aux_loss_balancer = {
    .name = "aux_loss",
    .doc = "auxiliary loss on the load of each micro-batch (Fedus et al. 2021, Switch)",
    .make_config = make_balancer_config<AuxLossConfig>,
    .make = make_balancer_method<AuxLoss, AuxLossConfig>,
};

}  // namespace sluice
