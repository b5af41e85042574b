// Expert choice: every expert takes its best tokens, so a token may get any number of experts.
//
//   training:    expert i takes the C = floor(T f / E) tokens with the largest s_ti, f the capacity
//                factor: the mean number of experts per token
//   evaluation:  token t goes to expert i iff s_ti > theta_i
//   weights:     s_ti
//
// Zhou et al. 2022, "Mixture-of-Experts with Expert Choice Routing", section 3: s is the softmax
// over the experts (`over: experts`), and f = k unless given. `over: tokens` is the form of Mesh
// TensorFlow: s is the softmax over the tokens of the micro-batch, per expert; a weight is divided
// by the number of experts that took the token; and `coverage` weighs a loss that asks for every
// token,
//
//   L = coverage (T/M) T sum over t of (mean_i s_ti)^2,   coverage when every token is asked for
//                                                         alike
//
// Loads are equal by construction. Which tokens an expert takes depends on later tokens: training
// only. Ours [R]: the causal form for evaluation is a threshold per expert, a running mean of the
// (C + 1)-th largest value of its column over the micro-batches, and for `over: tokens` a running
// mean of the logarithm of the softmax's denominator, averaged over the ranks after every step;
// before the first micro-batch evaluation takes the router's top-k. Tokens without a loss are not
// chosen from: they go to the experts for which they are past that value. A token that no expert
// takes passes by. The method sets the weights itself: `weights` and `scale` of the router do not
// apply; routers with groups, thresholds or null experts are refused.

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <optional>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"
#include "autograd/ops/top_k.h"
#include "autograd/support/parallel.h"
#include "balance/batch.h"
#include "balance/method.h"

namespace sluice {
namespace {

enum class Over : uint8_t { experts, tokens };

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct ExpertChoiceConfig final : Configurable {
  std::optional<Scheduled> capacity_factor;
  Over over = Over::experts;
  Scheduled coverage = 0.0;
  double decay = 0.9;

  void fields(FieldVisitor& v) override {
    v.optional_scheduled({"capacity_factor",
                          "mean number of experts per token, which sets what an expert takes; "
                          "auto: top_k (paper: 2)"},
                         capacity_factor, {.min = 0.0, .exclusive_min = true}, "auto");
    v.enumeration({"over",
                   "scores are a softmax over the experts of a token, or over the tokens of the "
                   "micro-batch (Mesh TensorFlow)"},
                  over, {{"experts", Over::experts}, {"tokens", Over::tokens}});
    v.scheduled(
        {"coverage",
         "weight of the loss that asks for every token, for over: tokens (Mesh TensorFlow: 0.01)"},
        coverage, {.min = 0.0});
    v.number({"decay", "what the thresholds of evaluation keep of themselves per micro-batch"},
             decay, {.min = 0.0, .max = 1.0});
  }

  [[nodiscard]] std::string check() const override {
    if (over == Over::experts && coverage.extremes().greatest > 0.0) {
      return fmt::format("coverage: found {}, allowed 0 with over: experts, where it is constant",
                         coverage.extremes().greatest);
    }
    return {};
  }
};

class ExpertChoice final : public Balancer {
 public:
  ExpertChoice(ExpertChoiceConfig config, const BalancerSetup& setup)
      : config_(std::move(config)),
        thresholds_(static_cast<size_t>(setup.experts), 0.0),
        log_partition_(static_cast<size_t>(setup.experts), 0.0) {}

  [[nodiscard]] BalancerTraits traits() const override {
    return {.selects = true, .batch_dependent = true, .varies_k = true};
  }

  /// Each of E experts takes T c / E of T tokens.
  [[nodiscard]] ActiveExperts active_experts(const ActiveExpertsQuery& query,
                                             const ActiveExperts& /*of_router*/) const override {
    return ActiveExperts::exactly(std::min(experts_per_token(query.top_k, query.progress),
                                           static_cast<double>(query.num_experts)));
  }

  void route(const RouterInput& input, Selection& selection) override {
    selection.plan.clear();
    const std::vector<int64_t> tokens =
        input.training ? counted_tokens(input.layout) : std::vector<int64_t>();
    if (!tokens.empty()) {
      let_experts_choose(input, tokens, selection);
    } else if (micro_batches_ > 0) {
      if (config_.over == Over::tokens) selection.plan = log_partition_;
      select_past_thresholds(input, selection);
    } else {
      input.choose({}, selection);
    }
  }

  [[nodiscard]] Tensor combine_weights(Tape& tape, const RouterInput& input,
                                       const Selection& selection) override {
    const Tensor index = expert_index(tape.pool(), selection);
    if (config_.over == Over::experts) return gather_last(tape, input.router.scores, index);
    const bool is_frozen = !selection.plan.empty();
    // Never trained: the router's top-k with the router's weights.
    if (!is_frozen && (!input.training || input.layout.counted_tokens() == 0)) return {};
    const Tensor s = is_frozen ? frozen_softmax(tape, input.router.logits, selection.plan)
                               : softmax_over_tokens(tape, input);
    return mul_rows(tape, gather_last(tape, s, index),
                    column(tape, s.dtype(), selection.tokens, [&](int64_t t) {
                      const auto first = selection.expert.begin() + t * selection.top_k;
                      const auto free = std::count(first, first + selection.top_k, kNoExpert);
                      return 1.0 / static_cast<double>(std::max<int64_t>(
                                       1, selection.top_k - static_cast<int64_t>(free)));
                    }));
  }

  void add_losses(Tape& tape, const RouterInput& input, const Selection& /*selection*/,
                  const LayerLoad* /*global_load*/, std::vector<AuxiliaryLoss>& losses) override {
    const double coverage = config_.coverage.at(input.progress);
    const auto tokens = static_cast<double>(input.layout.counted_tokens());
    if (config_.over == Over::experts || coverage == 0.0 || tokens == 0.0) return;
    const Tensor s = softmax_over_tokens(tape, input);
    const double factor = coverage * tokens * tokens / static_cast<double>(input.valid_tokens);
    const Tensor asked = scale(tape, sum_last(tape, s), 1.0 / static_cast<double>(s.dim(1)));
    const Tensor weights =
        column(tape, s.dtype(), s.dim(0), [&](int64_t t) { return is_counted(input, t) * factor; });
    losses.push_back({LossKind::balance, sum(tape, mul(tape, square(tape, asked), weights))});
  }

  void reduce(Communicator& communicator) override {
    if (communicator.size() == 1) return;
    std::vector<int64_t> learned = {micro_batches_ > 0 ? 1 : 0, micro_batches_};
    communicator.sum(std::span<int64_t>(learned));
    if (learned[0] == 0) return;
    for (std::vector<double>* values : {&thresholds_, &log_partition_}) {
      if (micro_batches_ == 0) std::ranges::fill(*values, 0.0);
      communicator.sum(std::span<double>(*values));
      for (double& value : *values) value /= static_cast<double>(learned[0]);
    }
    micro_batches_ = (learned[1] + learned[0] - 1) / learned[0];
  }

  void visit_state(StateVisitor& visitor) override {
    const auto experts = static_cast<int64_t>(thresholds_.size());
    visitor.integer("micro_batches", micro_batches_);
    visitor.array<double>("thresholds", thresholds_, std::span(&experts, 1));
    if (config_.over == Over::tokens) {
      visitor.array<double>("log_partition", log_partition_, std::span(&experts, 1));
    }
  }

 private:
  [[nodiscard]] double experts_per_token(int64_t top_k, const Progress& progress) const {
    return config_.capacity_factor ? config_.capacity_factor->at(progress)
                                   : static_cast<double>(top_k);
  }

  /// What the experts rank the tokens by. For `over: tokens` the logits rank as their softmax does.
  [[nodiscard]] const Tensor& ranked(const RouterInput& input) const {
    return config_.over == Over::experts ? input.router.scores : input.router.logits;
  }

  [[nodiscard]] static double is_counted(const RouterInput& input, int64_t t) {
    return input.layout.counted[static_cast<size_t>(t)] != 0 ? 1.0 : 0.0;
  }

  /// A constant [N] of value(t).
  template <class Value>
  static Tensor column(const Tape& tape, DType dtype, int64_t tokens, Value&& value) {
    Tensor result = tape.empty({tokens}, dtype);
    if (!result.has_memory()) return result;
    dispatch_float(dtype, [&]<class T>() {
      for (int64_t t = 0; t < tokens; ++t) result.data<T>()[t] = static_cast<T>(value(t));
    });
    return result;
  }

  /// exp(z - log_partition).
  static Tensor frozen_softmax(Tape& tape, const Tensor& z, std::span<const double> plan) {
    const Tensor lowered =
        column(tape, z.dtype(), z.dim(1), [&](int64_t e) { return -plan[static_cast<size_t>(e)]; });
    return exp(tape, add_bias(tape, z, lowered));
  }

  /// The largest logit of every expert over the counted tokens, [E].
  static std::vector<double> greatest_logits(const RouterInput& input) {
    const Tensor& z = input.router.logits;
    std::vector<double> greatest(static_cast<size_t>(z.dim(1)), -kInfinity);
    dispatch_float(z.dtype(), [&]<class T>() {
      for (int64_t t = 0; t < z.dim(0); ++t) {
        if (input.layout.counted[static_cast<size_t>(t)] == 0) continue;
        const T* row = z.data<T>() + t * z.dim(1);
        for (size_t e = 0; e < greatest.size(); ++e) {
          greatest[e] = std::max(greatest[e], static_cast<double>(row[e]));
        }
      }
    });
    return greatest;
  }

  /// exp(z_ti) / sum over counted t of exp(z_ti), [N, E], on the tape.
  static Tensor softmax_over_tokens(Tape& tape, const RouterInput& input) {
    const Tensor& z = input.router.logits;
    const std::vector<double> greatest =
        z.has_memory() ? greatest_logits(input) : std::vector<double>();
    const Tensor shift = column(tape, z.dtype(), z.dim(1),
                                [&](int64_t e) { return -greatest[static_cast<size_t>(e)]; });
    const Tensor mask =
        column(tape, z.dtype(), z.dim(0), [&](int64_t t) { return is_counted(input, t); });
    const Tensor lowered = add_bias(tape, z, shift);
    const Tensor sums = sum_rows(tape, mul_rows(tape, exp(tape, lowered), mask));
    return exp(tape, add_bias(tape, lowered, scale(tape, log(tape, sums), -1.0)));
  }

  void let_experts_choose(const RouterInput& input, const std::vector<int64_t>& tokens,
                          Selection& selection) {
    const auto count = static_cast<int64_t>(tokens.size());
    const int64_t experts = input.router.logits.dim(1);
    const double factor = experts_per_token(input.top_k, input.progress);
    const int64_t capacity =
        std::min(count, static_cast<int64_t>(std::floor(static_cast<double>(count) * factor /
                                                        static_cast<double>(experts))));
    ArenaScope scratch(thread_arena());
    const std::span<const double> values = shifted_rows(scratch, ranked(input), {});
    std::vector<double> next(static_cast<size_t>(experts));  // the value that an expert left
    std::vector<uint8_t> is_taken(values.size(), 0);         // [N, E]
    parallel_for(experts, [&](int64_t e) {
      // The column in one piece. A NaN has no place in an order: last.
      std::vector<double> column(tokens.size());
      std::ranges::transform(tokens, column.begin(), [&](int64_t t) {
        const double value = values[static_cast<size_t>(t * experts + e)];
        return std::isnan(value) ? -kInfinity : value;
      });
      std::vector<int32_t> order(tokens.size());
      std::iota(order.begin(), order.end(), 0);
      const auto last_taken = order.begin() + capacity;
      std::nth_element(order.begin(), last_taken, order.end(), [&](int32_t a, int32_t b) {
        const double value_a = column[static_cast<size_t>(a)];
        const double value_b = column[static_cast<size_t>(b)];
        return value_a != value_b ? value_a > value_b : a < b;
      });
      for (auto i = order.begin(); i != last_taken; ++i) {
        is_taken[static_cast<size_t>(tokens[static_cast<size_t>(*i)] * experts + e)] = 1;
      }
      // Where every token was taken: a threshold that lets every one of them pass.
      next[static_cast<size_t>(e)] = capacity < count
                                         ? column[static_cast<size_t>(*last_taken)]
                                         : std::nextafter(std::ranges::min(column), -kInfinity);
    });
    select_taken(input, values, next, is_taken, selection);
    if (capacity > 0) learn(input, next);
  }

  static void select_taken(const RouterInput& input, std::span<const double> values,
                           const std::vector<double>& next, const std::vector<uint8_t>& is_taken,
                           Selection& selection) {
    std::vector<double> positive(values.size(), 0.0);
    const auto experts = static_cast<size_t>(input.router.logits.dim(1));
    for (size_t i = 0; i < values.size(); ++i) {
      const size_t t = i / experts;
      const bool goes =
          input.layout.counted[t] != 0 ? is_taken[i] != 0 : values[i] > next[i % experts];
      if (goes) positive[i] = above_zero(values[i]);
    }
    select_positive(positive, input.layout.tokens(), static_cast<int64_t>(experts), input.top_k,
                    selection);
  }

  void select_past_thresholds(const RouterInput& input, Selection& selection) const {
    ArenaScope scratch(thread_arena());
    const std::span<double> values = shifted_rows(scratch, ranked(input), {});
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = values[i] > thresholds_[i % thresholds_.size()] ? above_zero(values[i]) : 0.0;
    }
    select_positive(values, input.layout.tokens(), static_cast<int64_t>(thresholds_.size()),
                    input.top_k, selection);
  }

  /// The same order, all above 0.
  [[nodiscard]] static double above_zero(double x) { return x >= 0.0 ? 1.0 + x : 1.0 / (1.0 - x); }

  void learn(const RouterInput& input, const std::vector<double>& next) {
    std::vector<double> log_partition;
    if (config_.over == Over::tokens) log_partition = log_partitions(input);
    const auto is_finite = [](double x) { return std::isfinite(x); };
    if (!std::ranges::all_of(next, is_finite) || !std::ranges::all_of(log_partition, is_finite)) {
      return;
    }
    const double kept = micro_batches_ == 0 ? 0.0 : config_.decay;
    ++micro_batches_;
    for (size_t e = 0; e < next.size(); ++e) {
      thresholds_[e] = kept * thresholds_[e] + (1.0 - kept) * next[e];
    }
    for (size_t e = 0; e < log_partition.size(); ++e) {
      log_partition_[e] = kept * log_partition_[e] + (1.0 - kept) * log_partition[e];
    }
  }

  [[nodiscard]] static std::vector<double> log_partitions(const RouterInput& input) {
    const std::vector<double> greatest = greatest_logits(input);
    ArenaScope scratch(thread_arena());
    const std::span<const double> rows = shifted_rows(scratch, input.router.logits, {});
    std::vector<double> sums(greatest.size(), 0.0);
    for (size_t i = 0; i < rows.size(); ++i) {
      const size_t e = i % greatest.size();
      if (input.layout.counted[i / greatest.size()] != 0)
        sums[e] += std::exp(rows[i] - greatest[e]);
    }
    for (size_t e = 0; e < sums.size(); ++e) sums[e] = std::log(sums[e]) + greatest[e];
    return sums;
  }

  ExpertChoiceConfig config_;
  int64_t micro_batches_ = 0;          // that the thresholds are from
  std::vector<double> thresholds_;     // theta [E]
  std::vector<double> log_partition_;  // [E], of the softmax over tokens
};

}  // namespace

const BalancerEntry expert_choice_balancer = {
    .name = "expert_choice",
    .doc = "every expert takes its best tokens of a micro-batch (Zhou et al. 2022)",
    .make_config = make_balancer_config<ExpertChoiceConfig>,
    .make = make_balancer_method<ExpertChoice, ExpertChoiceConfig>,
    .passes_over_router = true,
};

}  // namespace sluice
