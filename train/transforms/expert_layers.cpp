#include "train/transforms/expert_layers.h"

#include "autograd/support/error.h"

namespace sluice {
namespace {

void check_own_experts(const ExpertsConfig& config, const Progress& progress,
                       const std::string& from) {
  SLUICE_CHECK(
      ConfigError, config.pool_layers == 1,
      "from: {} has experts that several layers share (model.experts.pool_layers), allowed "
      "are layers with experts of their own",
      from);
  const auto diversify = config.diversification();
  SLUICE_CHECK(ConfigError, diversify == nullptr || progress.step >= diversify->steps,
               "from: {} stands at step {}, before its experts are made "
               "(model.experts.diversify.steps: {})",
               from, progress.step, diversify == nullptr ? 0 : diversify->steps);
}

}  // namespace

std::vector<ExpertLayer> expert_layers(const Recipe& recipe, const Progress& progress,
                                       const std::string& from) {
  std::vector<ExpertLayer> layers;
  int64_t routed = 0;
  const std::vector<SublayerSpec> sublayers = recipe.model.sublayers();
  for (size_t i = 0; i < sublayers.size(); ++i) {
    const RoutingConfig* routing = sublayers[i].routing();
    if (routing == nullptr) continue;
    if (const auto* experts = dynamic_cast<const ExpertsConfig*>(sublayers[i].config)) {
      check_own_experts(*experts, progress, from);
      layers.push_back({fmt::format("layers.{}", i), sublayers[i].key, routed,
                        experts->top_k_at(progress), experts});
    }
    routed += routing->num_routed_layers(recipe.model);
  }
  SLUICE_CHECK(ConfigError, !layers.empty(),
               "from: the model of {} ({}) has no layer of experts (E) to transform", from,
               recipe.model.pattern);
  const std::string partial = layers_of_some_tokens(recipe.model);
  SLUICE_CHECK(ConfigError, partial.empty(), "from: {} cannot be transformed: {}", from, partial);
  return layers;
}

}  // namespace sluice
