#include "train/parameter_count.h"

#include <unordered_map>

#include "layers/routed_layer.h"

namespace sluice {

ParameterCount count_parameters(const Recipe& recipe, const Model& model,
                                const Progress& progress) {
  // Of a sublayer that routes more than once, a token may use other experts each time.
  std::unordered_map<const Parameter*, int64_t> experts_used;
  const std::vector<const RoutingConfig*> layers = recipe.model.routed_layers();
  for (int64_t layer = 0; layer < std::ssize(layers); ++layer) {
    const int64_t top_k = layers[static_cast<size_t>(layer)]->top_k_at(progress);
    for (const Parameter* parameter : model.routed_parameters(layer)) {
      experts_used[parameter] += top_k;
    }
  }
  ParameterCount count;
  for (const Parameter* parameter : model.parameters()) {
    const int64_t size = parameter->value.numel();
    count.total += size;
    if (parameter->trainable) count.trainable += size;
    if (parameter->kind == ParameterKind::embedding) count.embedding += size;
    if (parameter->stack != Stack::routed_experts) {
      count.active += size;
      continue;
    }
    const int64_t experts = parameter->value.dim(0);
    count.experts += size;
    count.active += size / experts * std::min(experts, experts_used.at(parameter));
  }
  return count;
}

}  // namespace sluice
