#include "layers/ffns/moe.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "autograd/ops/dispatch_combine.h"
#include "autograd/ops/elementwise.h"
#include "layers/attention_map.h"
#include "layers/capacity.h"
#include "layers/experts.h"
#include "layers/ffns/dense.h"
#include "layers/model.h"
#include "layers/momentum.h"
#include "layers/router.h"

namespace sluice {

void SharedExpertsConfig::fields(FieldVisitor& v) {
  v.integer({"num_experts", "experts that every token uses"}, num_experts, {.min = 1});
  v.integer({"intermediate_size", "hidden width of each"}, intermediate_size, {.min = 1});
}

void DiversifyConfig::fields(FieldVisitor& v) {
  v.integer({"steps", "steps with one expert, which takes all tokens"}, steps, {.min = 1});
  v.number({"mask", "share of an expert's weights that are zeroed, others for each expert"}, mask,
           {.min = 0.0, .max = 1.0});
  v.number({"noise", "standard deviation of what is added to the weights, over theirs"}, noise,
           {.min = 0.0});
  v.enumeration({"moments", "the optimizer's moments of the new experts: copy or reset to zero"},
                moments, {{"copy", Moments::copy}, {"reset", Moments::reset}});
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
  v.optional_object(
      {"momentum",
       "the layer moves the residual stream by a momentum over expert layers (MomentumSMoE 2024); "
       "none: by its output"},
      momentum, [] { return std::make_shared<MomentumConfig>(); }, "none");
  v.optional_object(
      {"diversify",
       "begin dense, with one expert per layer, and make all experts from it later (EvoMoE 2021)"},
      diversify, [] { return std::make_shared<DiversifyConfig>(); }, "none");
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

ActiveExperts ExpertsConfig::active_experts(const ActiveExpertsQuery& query) const {
  return dynamic_cast<const RouterConfig&>(*router.config).active_experts(query);
}

ActiveExperts ExpertsConfig::with_capacity(const ActiveExpertsQuery& query,
                                           const ActiveExperts& chosen) const {
  if (!capacity_factor) return chosen;
  // An expert takes f k / E of the tokens. At best all of that is used; at worst all tokens want
  // the same experts.
  const double total = capacity_factor->at(query.progress) * static_cast<double>(query.top_k);
  const double of_expert = total / static_cast<double>(query.num_experts);
  if (of_expert >= 1.0) return chosen;
  return ActiveExperts::within_bounds(chosen.least * of_expert, std::min(chosen.greatest, total));
}

int64_t ExpertsConfig::largest_top_k() const { return rounded_top_k(top_k.extremes().greatest); }

int64_t ExpertsConfig::rounded_top_k(double k) const {
  // Half to even, as SMoE-Dropout's growing k is published.
  return std::clamp<int64_t>(static_cast<int64_t>(std::nearbyint(k)), 1, num_experts);
}

namespace {

/// f32 or f64 values as doubles, in `scratch`; empty on a pool for shapes only.
std::span<const double> as_doubles(ArenaScope& scratch, const Tensor& tensor) {
  if (!tensor.has_memory()) return {};
  return dispatch_float(tensor.dtype(), [&]<class T>() -> std::span<const double> {
    const auto values = tensor.span<T>();
    double* copy = scratch.allocate<double>(tensor.numel());
    std::ranges::copy(values, copy);
    return {copy, values.size()};
  });
}

bool reads_attention(const ExpertsConfig& config) {
  const auto* router = dynamic_cast<const RouterConfig*>(config.router.config.get());
  return router != nullptr && router->reads_attention();
}

/// A router that reads attention needs a layer of it before the first expert layer.
std::string check_attention_before(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const ExpertsConfig&>(section);
  if (!reads_attention(config)) return {};
  for (const char symbol : model.expanded_pattern()) {
    for (const MixerEntry* entry : mixer_table()) {
      if (entry->symbol == symbol && entry->attends) return {};
    }
    if (symbol == moe_feed_forward.symbol) break;
  }
  return fmt::format(
      "experts.router: found type {}, which reads the attention of an earlier layer, but pattern "
      "\"{}\" has none before its first expert layer (E); put an attention layer (A) before it",
      config.router.type, model.pattern);
}

class MoeFeedForward final : public FeedForward {
 public:
  MoeFeedForward(const Builder& b, const ModelConfig& model, const ExpertsConfig& config,
                 SublayerPlace place)
      : config_(config), diversify_(config.diversification()), layer_(place.expert_layer) {
    const int64_t d = model.hidden_size;
    const RouterEntry& entry = router_registry().at(config.router.type);
    auto experts = std::make_unique<SwigluExperts>(b.child("experts"), config.num_experts, d,
                                                   config.intermediate_size);
    const RouterSetup setup{.hidden_size = d,
                            .num_experts = config.num_experts,
                            .layer = layer_,
                            .top_k = config.largest_top_k(),
                            .experts = experts.get(),
                            .first = place.first_router};
    router_ = &child(entry.make(b.child("router"), setup, *config.router.config));
    experts_ = &child(std::move(experts));
    if (reads_attention(config)) {
      attention_ = place.attention;
      SLUICE_INTERNAL_CHECK(attention_ != nullptr, "expert layer {} has no attention before it",
                            layer_);
      attention_->share();
    }
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

  [[nodiscard]] const Router* router() const override { return router_; }
  [[nodiscard]] bool wants_expert_losses(const Progress& progress) const override {
    return router_->wants_expert_losses(progress);
  }
  void add_expert_losses(const ForwardContext& context, int64_t expert,
                         const Tensor& losses) const override {
    if (!router_->wants_expert_losses(context.progress) || !losses.has_memory()) return;
    router_->add_expert_losses(context, expert, losses,
                               context.routing->router_sums(layer_, router_->num_sums()));
  }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool, DType dtype,
                                                             int64_t capacity) const override {
    return router_->make_state(pool, dtype, capacity);
  }

  Tensor forward(const ForwardContext& context, const Tensor& x, BlockState& state) const override {
    const Tensor y = output(context, x, state);
    const auto* momentum = dynamic_cast<const MomentumConfig*>(config_.momentum.get());
    if (momentum == nullptr) return y;
    const PhaseScope phase(context.tape, Phase::experts);
    return momentum_step(context, *momentum, layer_ == 0, y, state);
  }

 private:
  /// y [N, D] of routed and shared experts.
  [[nodiscard]] Tensor output(const ForwardContext& caller, const Tensor& x,
                              BlockState& state) const {
    SLUICE_INTERNAL_CHECK(caller.routing != nullptr, "expert layer {} has no routing session",
                          layer_);
    Tape& tape = caller.tape;
    if (diversify_ != nullptr && caller.progress.step < diversify_->steps) {
      return with_shared_experts(caller, x, run_one_expert(caller, x));
    }
    ForwardContext context = caller;
    const AttentionMap attention =
        attention_ != nullptr ? attention_->attention(state) : AttentionMap{};
    if (attention_ != nullptr) context.attention = &attention;
    DispatchPlan plan;
    Tensor weights;
    Tensor expert_input;
    {
      const TimedPhaseScope phase(tape, Phase::routing);
      const RouterScores scores = router_->score(context, x);
      const auto choose = [&](std::span<const double> shift, Selection& chosen) {
        const TimedPhaseScope choosing(tape, Phase::routing);
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
        context.routing->observe(
            {layer_, scores, selection, context.layout, weights, context.token_ids, input.top_k});
      }
      plan = make_dispatch_plan(
          tape.pool(), selection.dispatched.empty() ? selection.expert : selection.dispatched,
          selection.tokens, selection.top_k, selection.experts);
      expert_input = router_->expert_input(context, x);
    }
    Tensor y;
    {
      const PhaseScope phase(tape, Phase::experts);
      y = experts_->forward(context, expert_input, weights, plan);
    }
    return with_shared_experts(context, x, y);
  }

  [[nodiscard]] Tensor with_shared_experts(const ForwardContext& context, const Tensor& x,
                                           const Tensor& y) const {
    if (shared_ == nullptr) return y;
    const PhaseScope phase(context.tape, Phase::experts);
    return add(context.tape, y, shared_->apply(context, x));
  }

  /// Before the experts are spawned: the first one takes all tokens with weight 1. Nothing was
  /// routed, so no load is counted, no balancer asked, and none learns.
  [[nodiscard]] Tensor run_one_expert(const ForwardContext& context, const Tensor& x) const {
    const auto experts = static_cast<size_t>(config_.num_experts);
    (void)context.routing->select(layer_, context.tape.recomputing(),
                                  context.layout.counted_tokens(),
                                  [&](Balancer& /*balancer*/, Selection& made) {
                                    made.tokens = x.dim(0);
                                    made.experts = config_.num_experts;
                                    made.top_k = 1;
                                    made.expert.assign(static_cast<size_t>(x.dim(0)), 0);
                                    made.load.assign(experts, 0);
                                  });
    std::vector<int32_t> offsets(experts + 1, static_cast<int32_t>(x.dim(0)));
    offsets[0] = 0;
    const PhaseScope phase(context.tape, Phase::experts);
    return experts_->forward(
        context, router_->expert_input(context, x),
        Tensor::of<int32_t>(context.tape.pool(), {config_.num_experts + 1}, offsets));
  }

  /// The layer's selection, made by the balancer or replayed, and the losses it brings.
  const Selection& select(const ForwardContext& context, const RouterInput& input,
                          BlockState& state) const {
    Tape& tape = context.tape;
    RoutingSession& session = *context.routing;
    const Selection& selection =
        session.select(layer_, tape.recomputing(), context.layout.counted_tokens(),
                       [&](Balancer& balancer, Selection& made) {
                         const NoGrad no_grad(tape);
                         if (replay(context, input, made)) {
                           count_unbiased(context, input, balancer, made);
                           return;
                         }
                         if (tape.shapes_only()) {
                           input.choose({}, made);
                         } else {
                           const TimedPhaseScope phase(tape, Phase::balancing);
                           balancer.route(input, made);
                         }
                         made.count_load(context.layout.counted);
                         count_unbiased(context, input, balancer, made);
                         if (context.training) drop_overflow(context, input, made);
                       });
    if (context.training && !session.counting()) {
      const TimedPhaseScope phase(tape, Phase::balancing);
      std::vector<AuxiliaryLoss>& losses = session.empty_losses();
      session.balancer(layer_).add_losses(tape, input, selection, session.global_load(layer_),
                                          losses);
      for (const AuxiliaryLoss& loss : losses) state.add_loss(tape, loss);
      losses.clear();  // so that their tensors go
    }
    return selection;
  }

  static void count_unbiased(const ForwardContext& context, const RouterInput& input,
                             Balancer& balancer, Selection& made) {
    if (!context.training || context.tape.shapes_only()) return;
    const TimedPhaseScope phase(context.tape, Phase::balancing);
    balancer.count_unbiased(input, made);
  }

  /// Takes recorded decisions where the session has some: what was dropped then is dropped now.
  [[nodiscard]] bool replay(const ForwardContext& context, const RouterInput& input,
                            Selection& made) const {
    RouteSource* source = context.routing->source();
    if (source == nullptr || context.tape.shapes_only()) return false;
    const RouteRequest request{layer_,
                               context.layout,
                               context.token_ids,
                               config_.num_experts,
                               input.top_k,
                               context.routing->balancer(layer_).traits()};
    if (!source->choose(request, made)) return false;
    made.count_load(context.layout.counted);
    made.count_dropped(context.layout.counted);
    return true;
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

  /// Those of the selection where it brings some, the balancer's where it sets them, else the
  /// router's.
  [[nodiscard]] Tensor combine_weights(const ForwardContext& context, const RouterInput& input,
                                       const Selection& selection) const {
    if (!selection.fixed_weights.empty()) return fixed_weights(context, input, selection);
    Tensor weights;
    {
      const TimedPhaseScope phase(context.tape, Phase::balancing);
      weights = context.routing->balancer(layer_).combine_weights(context.tape, input, selection);
    }
    return weights.defined() ? weights : router_->combine_weights(context, input.router, selection);
  }

  [[nodiscard]] static Tensor fixed_weights(const ForwardContext& context, const RouterInput& input,
                                            const Selection& selection) {
    Tensor weights =
        context.tape.empty({selection.tokens, selection.top_k}, input.router.scores.dtype());
    dispatch_float(weights.dtype(), [&]<class T>() {
      std::ranges::copy(selection.fixed_weights, weights.data<T>());
    });
    return weights;
  }

  /// Training drops what exceeds the capacity; evaluation is dropless.
  void drop_overflow(const ForwardContext& context, const RouterInput& input,
                     Selection& selection) const {
    if (!config_.capacity_factor) return;
    const DropPolicy policy =
        config_.drop_policy == "weight" ? DropPolicy::weight : DropPolicy::position;
    ArenaScope scratch(thread_arena());
    std::span<const double> weights;
    if (policy == DropPolicy::weight)
      weights = as_doubles(scratch, combine_weights(context, input, selection));
    const int64_t capacity = expert_capacity(config_.capacity_factor->at(context.progress),
                                             selection.tokens, input.top_k, selection.experts);
    apply_capacity(selection, capacity, weights.empty() ? DropPolicy::position : policy, weights,
                   context.layout.counted);
  }

  ExpertsConfig config_;
  std::shared_ptr<const DiversifyConfig> diversify_;
  int64_t layer_;
  Router* router_;
  Experts* experts_;
  AttentionSource* attention_ = nullptr;  // what the router reads
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
    .check = check_attention_before,
    .make = [](const Builder& b, const ModelConfig& model, const Configurable& config,
               SublayerPlace place) -> std::unique_ptr<FeedForward> {
      return std::make_unique<MoeFeedForward>(b, model, dynamic_cast<const ExpertsConfig&>(config),
                                              place);
    },
};

}  // namespace sluice
