#include "layers/routed_layer.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "layers/attention_map.h"
#include "layers/capacity.h"
#include "layers/model.h"

namespace sluice {

RoutingConfig::RoutingConfig(FieldInfo count) : count_(count) {
  const RouterEntry& entry = router_registry().at("top_k");
  router = {std::string(entry.name), std::shared_ptr<Configurable>(entry.make_config())};
}

void RoutingConfig::count_fields(FieldVisitor& v) {
  v.integer(count_, num_experts, {.min = 1, .max = 65536});
  v.scheduled({"top_k", "experts per token k; a schedule makes the gate go from dense to sparse"},
              top_k, {.min = 1.0});
}

void RoutingConfig::route_fields(FieldVisitor& v) {
  static constexpr std::array<std::string_view, 2> kPolicies = {"position", "weight"};
  v.tagged({"router", "scores, choice and combine weights"}, router, router_choices());
  v.optional_scheduled({"capacity_factor",
                        "each expert takes at most ceil(this * tokens * k / E) assignments of a "
                        "micro-batch, the rest is dropped; none: dropless"},
                       capacity_factor, {.min = 0.0, .exclusive_min = true}, "none");
  v.word({"drop_policy",
          "who stays: position (first choices first, tokens in order) or weight (largest weights)"},
         drop_policy, kPolicies);
}

void RoutingConfig::fields(FieldVisitor& v) {
  count_fields(v);
  route_fields(v);
}

std::string RoutingConfig::check() const {
  const auto [least, greatest] = top_k.extremes();
  const bool is_whole = !top_k.is_constant() || least == std::floor(least);
  if (!is_whole || greatest > static_cast<double>(num_experts)) {
    return fmt::format("top_k: found {}, allowed a whole number from 1 to {} ({})", greatest,
                       num_experts, count_.key);
  }
  const auto* config = dynamic_cast<const RouterConfig*>(router.config.get());
  if (config == nullptr) return {};
  std::string problem = config->check_against(num_experts, rounded_top_k(greatest));
  if (problem.empty()) problem = config->check_against(num_experts, rounded_top_k(least));
  return problem;
}

int64_t RoutingConfig::top_k_at(const Progress& progress) const {
  return rounded_top_k(top_k.at(progress));
}

ActiveExperts RoutingConfig::active_experts(const ActiveExpertsQuery& query) const {
  return dynamic_cast<const RouterConfig&>(*router.config).active_experts(query);
}

ActiveExperts RoutingConfig::with_capacity(const ActiveExpertsQuery& query,
                                           const ActiveExperts& chosen) const {
  if (!capacity_factor) return chosen;
  // An expert takes f k / E of the tokens. At best all of that is used; at worst all tokens want
  // the same experts.
  const double total = capacity_factor->at(query.progress) * static_cast<double>(query.top_k);
  const double of_expert = total / static_cast<double>(query.num_experts);
  if (of_expert >= 1.0) return chosen;
  return ActiveExperts::within_bounds(chosen.least * of_expert, std::min(chosen.greatest, total));
}

int64_t RoutingConfig::largest_top_k() const { return rounded_top_k(top_k.extremes().greatest); }

int64_t RoutingConfig::rounded_top_k(double k) const {
  // Half to even, as SMoE-Dropout's growing k is published.
  return std::clamp<int64_t>(static_cast<int64_t>(std::nearbyint(k)), 1, num_experts);
}

bool RoutingConfig::reads_attention() const {
  const auto* config = dynamic_cast<const RouterConfig*>(router.config.get());
  return config != nullptr && config->reads_attention();
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

Tensor fixed_weights(const ForwardContext& context, const RouterInput& input,
                     const Selection& selection) {
  Tensor weights =
      context.tape.empty({selection.tokens, selection.top_k}, input.router.scores.dtype());
  dispatch_float(weights.dtype(),
                 [&]<class T>() { std::ranges::copy(selection.fixed_weights, weights.data<T>()); });
  return weights;
}

void count_unbiased(const ForwardContext& context, const RouterInput& input, Balancer& balancer,
                    Selection& made) {
  if (!context.training || context.tape.shapes_only()) return;
  const TimedPhaseScope phase(context.tape, Phase::balancing);
  balancer.count_unbiased(input, made);
}

}  // namespace

RoutedLayer::RoutedLayer(const Builder& b, const RoutingConfig& config, int64_t hidden_size,
                         int64_t layer, const SublayerPlace& place, const Experts* experts)
    : config_(config), layer_(layer) {
  const RouterEntry& entry = router_registry().at(config.router.type);
  const RouterSetup setup{.hidden_size = hidden_size,
                          .num_experts = config.num_experts,
                          .layer = layer_,
                          .top_k = config.largest_top_k(),
                          .experts = experts,
                          .first = place.first_router};
  router_ = &child(entry.make(b.child("router"), setup, *config.router.config));
  if (config.reads_attention()) {
    attention_ = place.attention;
    SLUICE_INTERNAL_CHECK(attention_ != nullptr, "routed layer {} has no attention before it",
                          layer_);
    attention_->share();
  }
}

RoutedLayer::RoutedLayer(const RoutingConfig& config, int64_t layer, std::unique_ptr<Router> router)
    : config_(config), layer_(layer), router_(&child(std::move(router))) {}

void RoutedLayer::end_step(RoutingSession& session, int64_t shift, const Progress& progress) {
  const int64_t size = router_->num_sums();
  if (size > 0) router_->end_step(session.router_sums(layer_ + shift, size), progress);
}

void RoutedLayer::add_expert_losses(const ForwardContext& context, int64_t expert,
                                    const Tensor& losses) const {
  if (!router_->wants_expert_losses(context.progress) || !losses.has_memory()) return;
  router_->add_expert_losses(context, expert, losses,
                             context.routing->router_sums(number(context), router_->num_sums()));
}

Route RoutedLayer::route(const ForwardContext& caller, const Tensor& x, BlockState& state) const {
  SLUICE_INTERNAL_CHECK(caller.routing != nullptr, "routed layer {} has no routing session",
                        layer_);
  Tape& tape = caller.tape;
  const TimedPhaseScope phase(tape, Phase::routing);
  ForwardContext context = caller;
  const AttentionMap attention =
      attention_ != nullptr ? attention_->attention(state) : AttentionMap{};
  if (attention_ != nullptr) context.attention = &attention;
  RouterScores scores = router_->score(context, x);
  const int64_t top_k = config_.top_k_at(context.progress);
  const auto choose = [&](std::span<const double> shift, Selection& chosen) {
    const TimedPhaseScope choosing(tape, Phase::routing);
    router_->choose(context, scores, shift, top_k, chosen);
    chosen.shifted = !shift.empty();
  };
  const RouterInput input{scores,
                          context.layout,
                          top_k,
                          context.progress,
                          context.valid_tokens,
                          context.global_sequences,
                          context.training,
                          choose,
                          context.training ? context.routing->step_load(number(context)) : nullptr};
  const Selection& selection = select(context, input, state);
  add_router_sums(context, x, selection);
  Tensor weights = combine_weights(context, input, selection);
  Tensor experts_read = router_->expert_input(context, x);
  if (!tape.recomputing() && !tape.shapes_only()) {
    context.routing->observe({number(context), scores, selection, context.layout, weights,
                              context.token_ids, top_k, &experts_read, &state.hidden});
  }
  return {std::move(scores), selection, std::move(weights), std::move(experts_read)};
}

DispatchPlan RoutedLayer::dispatch(const ForwardContext& context, const Route& route) const {
  const TimedPhaseScope phase(context.tape, Phase::routing);
  const Selection& selection = route.selection;
  return make_dispatch_plan(context.tape.pool(),
                            selection.dispatched.empty() ? selection.expert : selection.dispatched,
                            selection.tokens, selection.top_k, selection.experts);
}

void RoutedLayer::skip(const ForwardContext& context) const {
  (void)context.routing->select(number(context), context.tape.recomputing(), 0,
                                [&](Balancer& /*balancer*/, Selection& made) {
                                  made.tokens = 0;
                                  made.experts = num_experts();
                                  made.top_k = config_.top_k_at(context.progress);
                                  made.load.assign(static_cast<size_t>(num_experts()), 0);
                                });
}

Tensor RoutedLayer::bypass(const ForwardContext& context, const Tensor& x) const {
  (void)context.routing->select(number(context), context.tape.recomputing(),
                                context.layout.counted_tokens(),
                                [&](Balancer& /*balancer*/, Selection& made) {
                                  made.tokens = x.dim(0);
                                  made.experts = num_experts();
                                  made.top_k = 1;
                                  made.expert.assign(static_cast<size_t>(x.dim(0)), 0);
                                  made.load.assign(static_cast<size_t>(num_experts()), 0);
                                });
  return router_->expert_input(context, x);
}

const Selection& RoutedLayer::select(const ForwardContext& context, const RouterInput& input,
                                     BlockState& state) const {
  Tape& tape = context.tape;
  RoutingSession& session = *context.routing;
  const int64_t layer = number(context);
  const Selection& selection =
      session.select(layer, tape.recomputing(), context.layout.counted_tokens(),
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
    session.balancer(layer).add_losses(tape, input, selection, session.global_load(layer), losses);
    for (const AuxiliaryLoss& loss : losses) state.add_loss(tape, loss);
    losses.clear();  // so that their tensors go
  }
  return selection;
}

bool RoutedLayer::replay(const ForwardContext& context, const RouterInput& input,
                         Selection& made) const {
  RouteSource* source = context.routing->source();
  if (source == nullptr || context.tape.shapes_only()) return false;
  const RouteRequest request{
      number(context), context.layout, context.token_ids,
      num_experts(),   input.top_k,    context.routing->balancer(number(context)).traits()};
  if (!source->choose(request, made)) return false;
  made.count_load(context.layout.counted);
  made.count_dropped(context.layout.counted);
  return true;
}

void RoutedLayer::add_router_sums(const ForwardContext& context, const Tensor& x,
                                  const Selection& selection) const {
  const int64_t size = router_->num_sums();
  const bool wanted = size > 0 && context.training && !context.tape.recomputing() &&
                      !context.tape.shapes_only() && !context.routing->counting();
  if (!wanted) return;
  router_->add_sums(context, x, selection, context.routing->router_sums(number(context), size));
}

Tensor RoutedLayer::combine_weights(const ForwardContext& context, const RouterInput& input,
                                    const Selection& selection) const {
  if (!selection.fixed_weights.empty()) return fixed_weights(context, input, selection);
  Tensor weights;
  {
    const TimedPhaseScope phase(context.tape, Phase::balancing);
    weights =
        context.routing->balancer(number(context)).combine_weights(context.tape, input, selection);
  }
  return weights.defined() ? weights : router_->combine_weights(context, input.router, selection);
}

void RoutedLayer::drop_overflow(const ForwardContext& context, const RouterInput& input,
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

std::string check_attention_before(const ModelConfig& model, const Configurable& section) {
  const auto& config = dynamic_cast<const RoutingConfig&>(section);
  if (!config.reads_attention()) return {};
  // A group of adaptive depth, and a depth of multi-token prediction, sees the attention of its own
  // layers only.
  const auto all_readers_see = [&](const std::vector<SublayerSpec>& sublayers) {
    for (auto reader = sublayers.begin(); reader != sublayers.end(); ++reader) {
      if (reader->config != &section) continue;
      const bool sees = std::any_of(sublayers.begin(), reader, [&](const SublayerSpec& sublayer) {
        return sublayer.mixer != nullptr && sublayer.mixer->attends &&
               sublayer.group == reader->group;
      });
      if (!sees) return false;
    }
    return true;
  };
  if (all_readers_see(model.sublayers()) && all_readers_see(model.prediction_sublayers()))
    return {};
  return fmt::format(
      "router: found type {}, which reads the attention of an earlier layer, but pattern "
      "\"{}\" has none before its first expert layer (E); put an attention layer (A) before it",
      config.router.type, model.pattern);
}

}  // namespace sluice
