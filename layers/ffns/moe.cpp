#include "layers/ffns/moe.h"

#include <array>
#include <cmath>

#include "autograd/ops/dispatch_combine.h"
#include "autograd/ops/elementwise.h"
#include "layers/capacity.h"
#include "layers/experts.h"
#include "layers/ffns/dense.h"
#include "layers/model.h"
#include "layers/router.h"

namespace sluice {

void SharedExpertsConfig::fields(FieldVisitor& v) {
  v.integer({"num_experts", "experts that every token uses"}, num_experts, {.min = 1});
  v.integer({"intermediate_size", "hidden width of each"}, intermediate_size, {.min = 1});
}

ExpertsConfig::ExpertsConfig() {
  const RouterEntry& entry = router_registry().at("top_k");
  router = {std::string(entry.name), std::shared_ptr<Configurable>(entry.make_config())};
}

void ExpertsConfig::fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kPolicies = {"position", "weight"};
  v.integer({"num_experts", "routed experts E of a layer"}, num_experts, {.min = 1, .max = 65536});
  v.scheduled({"top_k", "experts per token k; a schedule makes the gate go from dense to sparse"},
              top_k, {.min = 1.0});
  v.integer({"intermediate_size", "hidden width F of one expert"}, intermediate_size, {.min = 1});
  v.optional_object(
      {"shared", "experts that every token uses beside the routed ones"}, shared,
      [] { return std::make_shared<SharedExpertsConfig>(); }, "none");
  v.tagged({"router", "scores, choice and combine weights"}, router, router_choices());
  v.optional_scheduled({"capacity_factor",
                        "each expert takes at most ceil(this * tokens * k / E) assignments of a "
                        "micro-batch, the rest is dropped; none: dropless"},
                       capacity_factor, {.min = 0.0, .exclusive_min = true}, "none");
  v.word({"drop_policy",
          "who stays: position (first choices first, tokens in order) or weight (largest weights)"},
         drop_policy, kPolicies);
}

std::string ExpertsConfig::check() const {
  const auto [least, greatest] = top_k.extremes();
  const bool is_whole = !top_k.is_constant() || least == std::floor(least);
  if (!is_whole || greatest > static_cast<double>(num_experts)) {
    return fmt::format("top_k: found {}, allowed a whole number from 1 to {} (num_experts)",
                       greatest, num_experts);
  }
  const auto* config = dynamic_cast<const RouterConfig*>(router.config.get());
  if (config == nullptr) return {};
  std::string problem = config->check_against(num_experts, rounded_top_k(greatest));
  if (problem.empty()) problem = config->check_against(num_experts, rounded_top_k(least));
  return problem;
}

int64_t ExpertsConfig::top_k_at(const Progress& progress) const {
  return rounded_top_k(top_k.at(progress));
}

int64_t ExpertsConfig::largest_top_k() const { return rounded_top_k(top_k.extremes().greatest); }

int64_t ExpertsConfig::rounded_top_k(double k) const {
  // Half to even, as SMoE-Dropout's growing k is published.
  return std::clamp<int64_t>(static_cast<int64_t>(std::nearbyint(k)), 1, num_experts);
}

namespace {

/// f32 or f64 values as doubles; empty on a pool for shapes only.
std::vector<double> as_doubles(const Tensor& tensor) {
  if (!tensor.has_memory()) return {};
  return dispatch_float(tensor.dtype(), [&]<class T>() {
    const auto values = tensor.span<T>();
    return std::vector<double>(values.begin(), values.end());
  });
}

class MoeFeedForward final : public FeedForward {
 public:
  MoeFeedForward(const Builder& b, const ModelConfig& model, const ExpertsConfig& config,
                 int64_t layer)
      : config_(config), layer_(layer) {
    const int64_t d = model.hidden_size;
    const RouterEntry& entry = router_registry().at(config.router.type);
    auto experts = std::make_unique<SwigluExperts>(b.child("experts"), config.num_experts, d,
                                                   config.intermediate_size);
    const RouterSetup setup{.hidden_size = d,
                            .num_experts = config.num_experts,
                            .layer = layer,
                            .top_k = config.largest_top_k(),
                            .experts = experts.get()};
    router_ = &child(entry.make(b.child("router"), setup, *config.router.config));
    experts_ = &child(std::move(experts));
    if (const auto* shared = dynamic_cast<const SharedExpertsConfig*>(config.shared.get())) {
      DenseConfig dense;
      dense.intermediate_size = shared->num_experts * shared->intermediate_size;
      shared_ = &child(std::make_unique<DenseFeedForward>(b.child("shared_experts"), d, dense));
    }
  }

  [[nodiscard]] int64_t num_experts() const override { return config_.num_experts; }

  void end_step(RoutingSession& session, const Progress& progress) override {
    const int64_t size = router_->num_sums();
    if (size > 0) router_->end_step(session.router_sums(layer_, size), progress);
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    Tape& tape = context.tape;
    DispatchPlan plan;
    Tensor weights;
    Tensor rows;
    {
      const PhaseScope phase(tape, Phase::routing);
      const RouterScores scores = router_->score(context, x);
      const auto choose = [&](std::span<const double> shift, Selection& chosen) {
        router_->choose(context, scores, shift, config_.top_k_at(context.progress), chosen);
        chosen.shifted = !shift.empty();
      };
      const RouterInput input{scores,
                              context.layout,
                              config_.top_k_at(context.progress),
                              context.progress,
                              context.valid_tokens,
                              context.global_sequences,
                              context.training,
                              choose,
                              context.training ? context.routing->step_load(layer_) : nullptr};
      const Selection& selection = select(context, input, state);
      add_router_sums(context, x, selection);
      weights = combine_weights(context, input, selection);
      if (!tape.recomputing() && !tape.shapes_only()) {
        context.routing->observe({layer_, scores, selection, context.layout, weights});
      }
      plan = make_dispatch_plan(
          tape.pool(), selection.dispatched.empty() ? selection.expert : selection.dispatched,
          selection.tokens, selection.top_k, selection.experts);
      rows = dispatch(tape, x, plan);
    }
    {
      const PhaseScope phase(tape, Phase::experts);
      rows = experts_->forward(context, rows, plan.offsets);
    }
    Tensor y;
    {
      const PhaseScope phase(tape, Phase::routing);
      y = combine(tape, rows, weights, plan);
    }
    if (shared_ == nullptr) return y;
    const PhaseScope phase(tape, Phase::experts);
    return add(tape, y, shared_->apply(context, x));
  }

 private:
  /// The layer's selection, made by the balancer or replayed, and the losses it brings.
  const Selection& select(const ForwardContext& context, const RouterInput& input,
                          BlockState& state) const {
    SLUICE_INTERNAL_CHECK(context.routing != nullptr, "expert layer {} has no routing session",
                          layer_);
    Tape& tape = context.tape;
    RoutingSession& session = *context.routing;
    const Selection& selection =
        session.select(layer_, tape.recomputing(), context.layout.counted_tokens(),
                       [&](Balancer& balancer, Selection& made) {
                         const NoGrad no_grad(tape);
                         if (tape.shapes_only()) {
                           input.choose({}, made);
                         } else {
                           balancer.route(input, made);
                         }
                         made.count_load(context.layout.counted);
                         if (context.training) drop_overflow(context, input, made);
                       });
    if (context.training && !session.counting()) {
      std::vector<AuxiliaryLoss> losses;
      session.balancer(layer_).add_losses(tape, input, selection, session.global_load(layer_),
                                          losses);
      for (const AuxiliaryLoss& loss : losses) state.add_loss(tape, loss);
    }
    return selection;
  }

  /// Gathers what a router that learns from its own choices wants to know.
  void add_router_sums(const ForwardContext& context, const Tensor& x,
                       const Selection& selection) const {
    const int64_t size = router_->num_sums();
    const bool wanted = size > 0 && context.training && !context.tape.recomputing() &&
                        !context.tape.shapes_only() && !context.routing->counting();
    if (!wanted) return;
    router_->add_sums(context, x, selection, context.routing->router_sums(layer_, size));
  }

  /// The balancer's weights where it sets them, else the router's.
  [[nodiscard]] Tensor combine_weights(const ForwardContext& context, const RouterInput& input,
                                       const Selection& selection) const {
    Tensor weights =
        context.routing->balancer(layer_).combine_weights(context.tape, input, selection);
    return weights.defined() ? weights : router_->combine_weights(context, input.router, selection);
  }

  /// Training drops what exceeds the capacity; evaluation is dropless.
  void drop_overflow(const ForwardContext& context, const RouterInput& input,
                     Selection& selection) const {
    if (!config_.capacity_factor) return;
    const DropPolicy policy =
        config_.drop_policy == "weight" ? DropPolicy::weight : DropPolicy::position;
    std::vector<double> weights;
    if (policy == DropPolicy::weight)
      weights = as_doubles(combine_weights(context, input, selection));
    const int64_t capacity = expert_capacity(config_.capacity_factor->at(context.progress),
                                             selection.tokens, selection.top_k, selection.experts);
    apply_capacity(selection, capacity, weights.empty() ? DropPolicy::position : policy, weights,
                   context.layout.counted);
  }

  ExpertsConfig config_;
  int64_t layer_;
  Router* router_;
  Experts* experts_;
  DenseFeedForward* shared_ = nullptr;
};

}  // namespace

const FeedForwardEntry moe_feed_forward = {
    .name = "moe",
    .symbol = 'E',
    .section = "experts",
    .doc = "Mixture of Experts (Shazeer et al. 2017; DeepSeekMoE 2024; MegaBlocks 2022)",
    .routes = true,
    .make_config = []() -> std::unique_ptr<Configurable> {
      return std::make_unique<ExpertsConfig>();
    },
    .check = nullptr,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<FeedForward> {
      return std::make_unique<MoeFeedForward>(b, model, dynamic_cast<const ExpertsConfig&>(config),
                                              place.expert_layer);
    },
};

}  // namespace sluice
