#include "train/transforms/expert_layers.h"

#include <algorithm>

#include "autograd/support/error.h"
#include "train/spawn_experts.h"

namespace sluice {
namespace {

void check_own_experts(const ExpertsConfig& config, const std::string& where) {
  SLUICE_CHECK(
      ConfigError, config.pool_layers == 1,
      "{}: the model has experts that several layers share (model.experts.pool_layers), allowed "
      "are layers with experts of their own",
      where);
}

}  // namespace

std::vector<ExpertLayer> expert_layers(const Recipe& recipe, const Progress& progress,
                                       const std::string& where) {
  check_experts_spawned(recipe, progress.step, where);
  std::vector<ExpertLayer> layers;
  int64_t routed = 0;
  const std::vector<SublayerSpec> sublayers = recipe.model.sublayers();
  for (size_t i = 0; i < sublayers.size(); ++i) {
    const RoutingConfig* routing = sublayers[i].routing();
    if (routing == nullptr) continue;
    if (const auto* experts = dynamic_cast<const ExpertsConfig*>(sublayers[i].config)) {
      check_own_experts(*experts, where);
      layers.push_back({fmt::format("layers.{}", i), sublayers[i].key, routed,
                        experts->top_k_at(progress), experts});
    }
    routed += routing->num_routed_layers(recipe.model);
  }
  SLUICE_CHECK(ConfigError, !layers.empty(),
               "{}: the model ({}) has no layer of experts (E) to transform", where,
               recipe.model.pattern);
  const std::string partial = layers_of_some_tokens(recipe.model);
  SLUICE_CHECK(ConfigError, partial.empty(), "{}: the model cannot be transformed: {}", where,
               partial);
  return layers;
}

ExpertsConfig& experts_section(ModelConfig& model, const std::string& key) {
  constexpr std::string_view kVariants = "variants.";
  if (!key.starts_with(kVariants)) return dynamic_cast<ExpertsConfig&>(model.section(key));
  const auto variant = std::ranges::find(model.variants, key.substr(kVariants.size()),
                                         &TaggedMap::value_type::first);
  return dynamic_cast<ExpertsConfig&>(*variant->second.config);
}

}  // namespace sluice
