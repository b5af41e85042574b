// The losses that balance groups of experts, as many devices would hold them: device level and
// communication.
//
//   L = (1 / B) sum_s sum_g (alpha_2 f'_g + alpha_3 f''_g) P'_g      over the sequences s, groups g
//
//   f'_g  = mean over the experts i of g of f_i,   f_i = E c_i / (k T_s)
//   f''_g = D / (M T_s) (counted tokens of s that have an expert in g)
//   P'_g  = sum over the experts i of g of P_i,    P_i = (1 / T_s) sum over counted t of p_ti
//
// DeepSeek-AI 2024, "DeepSeek-V2", equations 26 to 31, with the D groups that node_limited routes by:
// E / D neighbouring experts each. f' and f'' are constants. M is the number of groups that a token
// may reach: `max_groups`, which is the router's limit if it has one; auto is what k allows,
// min(D, k). Defaults alpha_2 = 0.05 and alpha_3 = 0.02 are the paper's, whose 8 devices are 4 here;
// its expert-level loss is sequence_aux_loss. `scope: micro_batch` takes T and the counts of the
// whole micro-batch, which then weighs by its share of the step's tokens [R].

#include <algorithm>
#include <numeric>
#include <optional>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"
#include "autograd/support/error.h"
#include "autograd/support/parallel.h"
#include "balance/losses.h"
#include "balance/method.h"

namespace sluice {
namespace {

enum class Scope : uint8_t { sequence, micro_batch };

struct DeviceAuxLossConfig final : Configurable {
  int64_t groups = 4;
  Scheduled device_coefficient = 0.05;
  Scheduled communication_coefficient = 0.02;
  std::optional<int64_t> max_groups;
  Scope scope = Scope::sequence;
  LoadSource selection = LoadSource::automatic;

  void fields(FieldVisitor& v) override {
    v.integer(
        {"groups", "groups D of neighbouring experts, a divisor of their number (DeepSeek-V2: 8)"},
        groups, {.min = 1});
    v.scheduled({"device_coefficient", "weight alpha_2 of the loss on assignments per group"},
                device_coefficient, {.min = 0.0});
    v.scheduled({"communication_coefficient", "weight alpha_3 of the loss on tokens per group"},
                communication_coefficient, {.min = 0.0});
    v.optional_integer({"max_groups",
                        "groups M that a token may reach; auto: as many as k allows "
                        "(DeepSeek-V2: 3)"},
                       max_groups, {.min = 1}, "auto");
    v.enumeration({"scope", "tokens whose load is balanced together"}, scope,
                  {{"sequence", Scope::sequence}, {"micro_batch", Scope::micro_batch}});
    visit_load_source(v, selection);
  }
  [[nodiscard]] std::string check() const override {
    if (max_groups.value_or(1) <= groups) return {};
    return fmt::format("max_groups: found {}, allowed 1 to {} (groups)", *max_groups, groups);
  }
};

/// Counted tokens of [begin, end) with an expert in each group, [D], in `scratch`.
std::span<const int64_t> count_tokens(ArenaScope& scratch, std::span<const int32_t> chosen,
                                      const RouterInput& input, int64_t groups, int64_t begin,
                                      int64_t end) {
  const int64_t group_size = input.router.probabilities.dim(1) / groups;
  const std::span<int64_t> tokens(scratch.allocate<int64_t>(groups), static_cast<size_t>(groups));
  const std::span<uint8_t> reached(scratch.allocate<uint8_t>(groups), static_cast<size_t>(groups));
  std::ranges::fill(tokens, 0);
  // A selection may hold more slots per token than top_k.
  const auto slots =
      static_cast<int64_t>(chosen.size() / std::max<size_t>(1, input.layout.counted.size()));
  for (int64_t t = begin; t < end; ++t) {
    if (input.layout.counted[static_cast<size_t>(t)] == 0) continue;
    std::fill(reached.begin(), reached.end(), uint8_t{0});
    for (int64_t slot = t * slots; slot < (t + 1) * slots; ++slot) {
      const int32_t expert = chosen[static_cast<size_t>(slot)];
      if (expert != kNoExpert) reached[static_cast<size_t>(expert / group_size)] = 1;
    }
    for (size_t g = 0; g < tokens.size(); ++g) tokens[g] += reached[g];
  }
  return tokens;
}

class DeviceAuxLoss final : public Balancer {
 public:
  DeviceAuxLoss(DeviceAuxLossConfig config, const BalancerSetup& setup)
      : config_(std::move(config)) {
    const int64_t groups = config_.groups;
    SLUICE_CHECK(ConfigError, setup.experts % groups == 0,
                 "balance: device_aux_loss.groups: found {}, allowed a divisor of {} "
                 "(num_experts)",
                 groups, setup.experts);
  }
  [[nodiscard]] BalancerTraits traits() const override { return {}; }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& selection,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    const Tensor& p = input.router.probabilities;
    const Tensor weights = tape.zeros(p.shape(), p.dtype());
    if (weights.has_memory()) {
      fill(weights, input, chosen_.of(config_.selection, input, selection));
    }
    losses.push_back({LossKind::balance, sum(tape, mul(tape, p, weights))});
  }

 private:
  /// The loss is sum over t, i of weights[t, i] p[t, i].
  void fill(Tensor weights, const RouterInput& input, std::span<const int32_t> chosen) const {
    const SequenceLayout& layout = input.layout;
    if (config_.scope == Scope::micro_batch) {
      fill_range(weights, input, chosen, 0, layout.tokens());
      return;
    }
    parallel_for(layout.sequences(), [&](int64_t sequence) {
      fill_range(weights, input, chosen, layout.sequence_offsets[static_cast<size_t>(sequence)],
                 layout.sequence_offsets[static_cast<size_t>(sequence) + 1]);
    });
  }

  void fill_range(Tensor weights, const RouterInput& input, std::span<const int32_t> chosen,
                  int64_t begin, int64_t end) const {
    const auto& counted = input.layout.counted;
    const int64_t tokens =
        std::accumulate(counted.begin() + begin, counted.begin() + end, int64_t{0});
    if (tokens == 0) return;
    ArenaScope scratch(thread_arena());
    const std::span<const double> of_group =
        group_weights(scratch, input, {chosen, begin, end, tokens});
    const int64_t experts = weights.dim(1);
    const int64_t group_size = experts / config_.groups;
    dispatch_float(weights.dtype(), [&]<class T>() {
      for (int64_t t = begin; t < end; ++t) {
        if (counted[static_cast<size_t>(t)] == 0) continue;
        T* row = weights.data<T>() + t * experts;
        for (int64_t e = 0; e < experts; ++e) {
          row[e] = static_cast<T>(of_group[static_cast<size_t>(e / group_size)]);
        }
      }
    });
  }

  /// Tokens [begin, end) of the micro-batch, whose slots went to `chosen` [N, k].
  struct Range {
    std::span<const int32_t> chosen;
    int64_t begin;
    int64_t end;
    int64_t tokens;  // counted ones
  };

  /// (alpha_2 f'_g + alpha_3 f''_g) over the number of sequences and of their tokens, [D], in
  /// `scratch`.
  [[nodiscard]] std::span<const double> group_weights(ArenaScope& scratch, const RouterInput& input,
                                                      const Range& range) const {
    const auto& [chosen, begin, end, tokens] = range;
    const int64_t groups = config_.groups;
    const auto group_size = static_cast<size_t>(input.router.probabilities.dim(1) / groups);
    const auto fractions =
        load_fractions(scratch, count_assignments(scratch, chosen, input, begin, end));
    const auto reached = count_tokens(scratch, chosen, input, groups, begin, end);
    const double device = config_.device_coefficient.at(input.progress);
    const double communication = config_.communication_coefficient.at(input.progress);
    const auto count = static_cast<double>(tokens);
    const double limit =
        static_cast<double>(config_.max_groups.value_or(std::min(groups, input.top_k)));
    // A micro-batch of T tokens weighs T / M and its mean 1 / T; a sequence weighs 1 / B.
    const double of_token = config_.scope == Scope::micro_batch
                                ? 1.0 / static_cast<double>(input.valid_tokens)
                                : 1.0 / (static_cast<double>(input.global_sequences) * count);
    const std::span<double> weights(scratch.allocate<double>(groups), static_cast<size_t>(groups));
    for (size_t g = 0; g < weights.size(); ++g) {
      const auto first = fractions.begin() + static_cast<int64_t>(g * group_size);
      // f'_g: the fractions sum to 1 where the paper's f_i sum to E.
      const double load = std::accumulate(first, first + static_cast<int64_t>(group_size), 0.0) *
                          static_cast<double>(groups);
      const double traffic =
          static_cast<double>(groups) * static_cast<double>(reached[g]) / (limit * count);
      weights[g] = of_token * (device * load + communication * traffic);
    }
    return weights;
  }

  DeviceAuxLossConfig config_;
  ChosenExperts chosen_;
};

}  // namespace

const BalancerEntry device_aux_loss_balancer = {
    .name = "device_aux_loss",
    .doc = "device-level and communication losses on groups of experts (DeepSeek-AI 2024, V2)",
    .make_config = make_balancer_config<DeviceAuxLossConfig>,
    .make = make_balancer_method<DeviceAuxLoss, DeviceAuxLossConfig>,
};

}  // namespace sluice
