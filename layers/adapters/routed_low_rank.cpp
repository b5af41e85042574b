#include "layers/adapters/routed_low_rank.h"

#include <fmt/ranges.h>

#include <algorithm>

#include "autograd/ops/top_k.h"
#include "layers/routers/top_k.h"

namespace sluice {
namespace {

/// The combine weight of the only expert; 0 where it is not one number.
double weight_of_sole_expert(const RoutingConfig& routing) {
  const auto* router = dynamic_cast<const TopKRouterConfig*>(routing.router.config.get());
  if (routing.num_experts != 1 || router == nullptr) return 0.0;
  const bool is_score = router->weights == "as_is";
  return is_score && router->scores != "softmax" ? 0.0 : router->scale;
}

}  // namespace

RoutedLowRank::RoutedLowRank(const Builder& b, const AdapterSetup& setup,
                             const AdapterSettings& settings, std::vector<int64_t> ranks,
                             double scale, std::vector<double> scales)
    : LowRankAdapter(b, setup, settings, scale),
      routed_(child(std::make_unique<RoutedLayer>(
          b, *setup.routing, setup.in, setup.routed_layer,
          SublayerPlace{.index = 0, .routed_layer = setup.routed_layer}))),
      factors_(child(std::make_unique<Factors>(
          b, FactorSpec{setup.in, setup.out, std::move(ranks), settings.b_std, true}))),
      scales_(std::move(scales)),
      sole_weight_(weight_of_sole_expert(*setup.routing)) {
  SLUICE_CHECK(
      ConfigError, routed_.make_state(b.pool(), b.dtype(), 1) == nullptr,
      "model.adapters.{}: router {} remembers earlier tokens while it decodes; allowed one "
      "that looks at a token alone",
      setup.name, setup.routing->router.type);
}

Tensor RoutedLowRank::gates(const ForwardContext& caller, const Tensor& x,
                            const FactorTensors& /*factors*/) const {
  SLUICE_INTERNAL_CHECK(caller.block != nullptr, "routed layer {} is in no sublayer's pass",
                        routed_.layer());
  ForwardContext context = caller;
  context.memory = nullptr;  // the sublayer's own
  Tape& tape = context.tape;
  const Route route = routed_.route(context, x, *context.block);
  const Selection& chosen = route.selection;
  const std::vector<int32_t>& slots = chosen.dispatched.empty() ? chosen.expert : chosen.dispatched;
  const Tensor index = Tensor::of<int32_t>(tape.pool(), {chosen.tokens, chosen.top_k}, slots);
  const Tensor weights = scatter_last(tape, route.weights, index, routed_.num_experts());
  return factors_.spread(tape, expert_gates(context, route, weights), scales_);
}

LowRankAdapter::Merging RoutedLowRank::merging() const {
  if (sole_weight_ > 0.0) return {.factor = sole_weight_, .why_not = {}};
  return {.factor = 0.0,
          .why_not = fmt::format("each token weighs its {} experts by a router of its own",
                                 routed_.num_experts())};
}

LoraExpertsConfig::LoraExpertsConfig() {
  num_experts = 4;
  rank = 8;
}

void LoraExpertsConfig::fields(FieldVisitor& v) {
  linears_field(v);
  rank_field(v);
  scale_fields(v);
  count_fields(v);
  v.integers({"allocation",
              "experts of each of so many equal parts of the model, first layers first, instead of "
              "num_experts (MoLA: 2, 4, 6, 8); empty: the same everywhere"},
             allocation, {.min = 1, .max = 65536});
  route_fields(v);
  parts_.resize(allocation.size());
  for (size_t i = 0; i < parts_.size(); ++i) {
    RoutingConfig part = *this;
    part.num_experts = allocation[i];
    if (parts_[i] == nullptr) parts_[i] = std::make_shared<RoutingConfig>();
    *parts_[i] = part;
  }
}

std::string LoraExpertsConfig::check() const {
  for (const auto& part : parts_) {
    if (std::string problem = part->check(); !problem.empty()) {
      return fmt::format("allocation: with {} experts, {}", part->num_experts, problem);
    }
  }
  return parts_.empty() ? RoutingConfig::check() : "";
}

const RoutingConfig* LoraExpertsConfig::routing_of(int64_t index, int64_t count) const {
  if (parts_.empty()) return this;
  return parts_[static_cast<size_t>(index * std::ssize(parts_) / count)].get();
}

std::string LoraExpertsConfig::check_depth(int64_t sublayers) const {
  if (allocation.empty() || sublayers % std::ssize(allocation) == 0) return {};
  return fmt::format(
      "allocation: found {} parts, allowed a divisor of {}, the layers that the pattern spells",
      allocation.size(), sublayers);
}

}  // namespace sluice
