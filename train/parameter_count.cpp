#include "train/parameter_count.h"

#include "layers/ffns/moe.h"

namespace sluice {

ParameterCount count_parameters(const Recipe& recipe, const Model& model,
                                const Progress& progress) {
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
    // Stacked by expert: [E, ...].
    const auto& experts = dynamic_cast<const ExpertsConfig&>(recipe.model.section("experts"));
    count.experts += size;
    count.active += size / parameter->value.dim(0) * experts.top_k_at(progress);
  }
  return count;
}

}  // namespace sluice
