// Experts of different kinds in one layer (Hecto 2025, arXiv 2506.22919: a feed-forward and a recurrent
// expert; section 9.10 of the method page).
//
// `kinds` lists forms of experts, of which the layer's experts are an equal number each, in that order, or
// `counts` many. Router, balancers and dispatch know nothing of it: an expert is a number to them. The
// published layer is two experts, one of each of the two kinds below, chosen by
//
//   router: {type: temperature, temperature: 1.5, weights: straight_through}, top_k: 1
//
// with the losses entropy_loss and aux_loss (their weights are not published).

#include <algorithm>
#include <numeric>

#include "autograd/ops/elementwise.h"
#include "autograd/support/error.h"
#include "layers/experts.h"
#include "layers/routers/unit_rows.h"

namespace sluice {
namespace {

/// Every form but this one.
std::span<const Choice> kind_choices() {
  static const std::vector<Choice> choices = [] {
    std::vector<Choice> result;
    for (const Choice& choice : experts_choices()) {
      if (choice.name != heterogeneous_form.name) result.push_back(choice);
    }
    return result;
  }();
  return choices;
}

struct HeterogeneousConfig final : Configurable {
  std::vector<Tagged> kinds;
  std::vector<int64_t> counts;

  HeterogeneousConfig() {
    for (const ExpertsEntry* entry : {&mlp_form, &gru_form}) {
      kinds.push_back(
          {std::string(entry->name), std::shared_ptr<Configurable>(entry->make_config())});
    }
  }
  void fields(FieldVisitor& v) override {
    v.tagged_list({"kinds", "forms of experts in this layer, in order of the experts' numbers"},
                  kinds, kind_choices());
    v.integers({"counts", "experts of each kind; empty: equally many"}, counts, {.min = 1});
  }
  [[nodiscard]] std::string check() const override {
    if (kinds.empty()) return "kinds: found none, allowed one form of experts or more";
    if (!counts.empty() && counts.size() != kinds.size()) {
      return fmt::format("counts: found {} numbers, allowed none or {} (kinds)", counts.size(),
                         kinds.size());
    }
    return {};
  }
  /// How many experts of each kind. Throws ConfigError.
  [[nodiscard]] std::vector<int64_t> split(int64_t experts) const {
    const auto kinds_ = static_cast<int64_t>(kinds.size());
    if (counts.empty()) {
      SLUICE_CHECK(
          ConfigError, experts % kinds_ == 0,
          "form.kinds: found {} kinds, allowed a divisor of num_experts ({}), or give counts",
          kinds_, experts);
      return std::vector<int64_t>(kinds.size(), experts / kinds_);
    }
    const int64_t total = std::accumulate(counts.begin(), counts.end(), int64_t{0});
    SLUICE_CHECK(ConfigError, total == experts,
                 "form.counts: found {} experts together, allowed {} (num_experts)", total,
                 experts);
    return counts;
  }
};

/// What each kind keeps; null where it keeps nothing.
struct KindStates final : FeedForwardState {
  std::vector<std::unique_ptr<FeedForwardState>> kinds;
};

class HeterogeneousExperts final : public Experts {
 public:
  HeterogeneousExperts(const Builder& b, const ExpertsSetup& setup,
                       const HeterogeneousConfig& config)
      : num_experts_(setup.num_experts) {
    const std::vector<int64_t> counts = config.split(setup.num_experts);
    int64_t first = 0;
    for (size_t i = 0; i < counts.size(); ++i) {
      ExpertsSetup of_kind = setup;
      of_kind.num_experts = counts[i];
      Experts& experts =
          child(make_experts(b.child(fmt::format("kinds.{}", i)), of_kind, config.kinds[i]));
      kinds_.push_back({&experts, first, first + counts[i]});
      first += counts[i];
    }
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, const Tensor& weights,
                 const DispatchPlan& plan) const override {
    Tape& tape = context.tape;
    const auto* memory = dynamic_cast<const KindStates*>(context.memory);
    ArenaScope scratch(thread_arena());
    const std::span<const int32_t> expert = experts_of(scratch, plan);
    Tensor y;
    for (size_t i = 0; i < kinds_.size(); ++i) {
      ForwardContext inner = context;
      inner.memory = memory == nullptr ? nullptr : memory->kinds[i].get();
      const Tensor part = kinds_[i].experts->forward(inner, x, weights,
                                                     plan_of(tape.pool(), kinds_[i], plan, expert));
      y = y.defined() ? add(tape, y, part) : part;
    }
    return y;
  }

  Tensor forward(const ForwardContext& context, const Tensor& x,
                 const Tensor& offsets) const override {
    Tape& tape = context.tape;
    const int64_t tokens = x.dim(0);
    ArenaScope scratch(thread_arena());
    const std::span<int32_t> expert(scratch.allocate<int32_t>(tokens), static_cast<size_t>(tokens));
    fill_experts(offsets, expert);
    return forward(context, x, filled(tape, {tokens, 1}, x.dtype(), 1.0),
                   make_dispatch_plan(tape.pool(), expert, tokens, 1, num_experts_));
  }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool,
                                                             DType dtype) const override {
    auto states = std::make_unique<KindStates>();
    bool keeps = false;
    for (const Kind& kind : kinds_) {
      states->kinds.push_back(kind.experts->make_state(pool, dtype));
      keeps = keeps || states->kinds.back() != nullptr;
    }
    return keeps ? std::move(states) : nullptr;
  }

 private:
  /// Experts first .. end - 1 of the layer.
  struct Kind {
    Experts* experts;
    int64_t first;
    int64_t end;
  };

  /// The expert of each row; on shapes alone they take turns.
  void fill_experts(const Tensor& offsets, std::span<int32_t> expert) const {
    if (!offsets.has_memory()) {
      for (size_t row = 0; row < expert.size(); ++row) {
        expert[row] = static_cast<int32_t>(static_cast<int64_t>(row) % num_experts_);
      }
      return;
    }
    const auto starts = offsets.span<int32_t>();
    for (size_t e = 0; e + 1 < starts.size(); ++e) {
      std::fill(expert.begin() + starts[e], expert.begin() + starts[e + 1],
                static_cast<int32_t>(e));
    }
  }

  /// The expert of every slot [N k] of the plan.
  [[nodiscard]] std::span<const int32_t> experts_of(ArenaScope& scratch,
                                                    const DispatchPlan& plan) const {
    const int64_t slots = plan.row_of_slot.numel();
    const std::span<int32_t> expert(scratch.allocate<int32_t>(slots), static_cast<size_t>(slots));
    if (!plan.row_of_slot.has_memory()) {
      fill_experts(plan.offsets, expert);
      return expert;
    }
    const int64_t rows = plan.token_of_row.dim(0);
    const std::span<int32_t> of_row(scratch.allocate<int32_t>(rows), static_cast<size_t>(rows));
    fill_experts(plan.offsets, of_row);
    std::ranges::transform(plan.row_of_slot.span<int32_t>(), expert.begin(), [&](int32_t row) {
      return row < 0 ? int32_t{-1} : of_row[static_cast<size_t>(row)];
    });
    return expert;
  }

  /// Of the slots that chose an expert of this kind.
  [[nodiscard]] static DispatchPlan plan_of(Pool& pool, const Kind& kind, const DispatchPlan& plan,
                                            std::span<const int32_t> expert) {
    ArenaScope scratch(thread_arena());
    const std::span<int32_t> own(scratch.allocate<int32_t>(std::ssize(expert)), expert.size());
    std::ranges::transform(expert, own.begin(), [&](int32_t e) {
      return e >= kind.first && e < kind.end ? e - static_cast<int32_t>(kind.first) : int32_t{-1};
    });
    return make_dispatch_plan(pool, own, plan.row_of_slot.dim(0), plan.row_of_slot.dim(1),
                              kind.end - kind.first);
  }

  int64_t num_experts_;
  std::vector<Kind> kinds_;
};

}  // namespace

const ExpertsEntry heterogeneous_form = {
    .name = "heterogeneous",
    .doc = "experts of several forms in one layer (Hecto 2025, arXiv 2506.22919)",
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<HeterogeneousConfig>();
    },
    .make = [](const Builder& b, const ExpertsSetup& setup,
               const Configurable& config) -> std::unique_ptr<Experts> {
      return std::make_unique<HeterogeneousExperts>(
          b, setup, dynamic_cast<const HeterogeneousConfig&>(config));
    },
    .mixes_kinds = true,
};

}  // namespace sluice
