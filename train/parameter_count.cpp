#include "train/parameter_count.h"

#include <algorithm>
#include <cmath>
#include <unordered_map>

#include "layers/routed_layer.h"

namespace sluice {

ParameterCount count_parameters(const Recipe& recipe, const Model& model,
                                const Progress& progress) {
  // Of a sublayer that routes more than once, a token may use other experts each time.
  struct Use {
    double chosen = 0.0;
    int64_t experts = 0;  // of the layer: of several kinds, a stack holds fewer
  };
  std::unordered_map<const Parameter*, Use> uses;
  const std::vector<const RoutingConfig*> layers = recipe.model.routed_layers();
  for (int64_t layer = 0; layer < std::ssize(layers); ++layer) {
    const RoutingConfig& config = *layers[static_cast<size_t>(layer)];
    const double of_token =
        static_cast<double>(config.top_k_at(progress)) * config.share_of_tokens(recipe.model);
    for (const Parameter* parameter : model.routed_parameters(layer)) {
      Use& use = uses[parameter];
      use.chosen += of_token;
      use.experts = std::max(config.num_experts, parameter->value.dim(0));
    }
  }
  ParameterCount count;
  for (const Parameter* parameter : model.parameters()) {
    const int64_t size = parameter->value.numel();
    count.total += size;
    if (parameter->trainable) count.trainable += size;
    if (parameter->kind == ParameterKind::embedding) count.embedding += size;
    if (parameter->stack == Stack::none) {
      count.active += size;
      continue;
    }
    const int64_t copies = parameter->value.dim(0);
    if (parameter->stack == Stack::modalities) {
      count.active += size / copies;
      count.other_modalities += size - size / copies;
      continue;
    }
    const Use& use = uses.at(parameter);
    const auto chosen = static_cast<int64_t>(std::llround(use.chosen));
    count.experts += size;
    count.active += size * std::min(use.experts, chosen) / use.experts;
  }
  return count;
}

}  // namespace sluice
