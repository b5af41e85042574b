#include "train/transforms/pack_experts.h"

#include "autograd/ops/ternary.h"
#include "layers/ffns/moe.h"
#include "train/build.h"
#include "train/checkpoint/packed_ternary.h"

namespace sluice {
namespace {

/// The stacks of matrices of layers whose experts are ternary.
std::vector<Parameter*> ternary_stacks(const TrainedModel& trained) {
  std::vector<Parameter*> stacks;
  const std::vector<SublayerSpec> sublayers = trained.recipe.model.sublayers();
  for (size_t i = 0; i < sublayers.size(); ++i) {
    const auto* experts = dynamic_cast<const ExpertsConfig*>(sublayers[i].config);
    if (experts == nullptr || experts->form.type != ternary_form.name) continue;
    const std::string own = fmt::format("layers.{}.experts.", i);
    for (Parameter* parameter : trained.model->parameters()) {
      if (parameter->name.starts_with(own)) stacks.push_back(parameter);
    }
  }
  return stacks;
}

}  // namespace

PackedExperts pack_experts(const Checkpoint& checkpoint, const std::string& source) {
  const TrainedModel trained = build_trained_model(checkpoint, source);
  const std::vector<Parameter*> stacks = ternary_stacks(trained);
  SLUICE_CHECK(ConfigError, !stacks.empty(),
               "{}: the model has no ternary experts (model.experts.form: ternary) to pack", source);
  PackedExperts packed{.checkpoint = {.meta = trained.meta, .state = {}}};
  StateDict& state = packed.checkpoint.state;
  for (const auto& [path, array] : checkpoint.state) {
    if (path.starts_with("model/") || path.starts_with("balance/")) state.emplace(path, array);
  }
  Tape tape(*trained.pool);
  const NoGrad no_grad(tape);
  for (const Parameter* stack : stacks) {
    SaveVisitor save;
    Tensor levels = ternarise(tape, stack->value);
    save.tensor("levels", levels);
    put_packed(state, "model/" + stack->name, save.take().at("levels"));
    packed.weights += stack->value.numel();
  }
  for (const auto& [path, array] : state) {
    if (path.starts_with("packed/")) packed.bytes += std::ssize(array.bytes);
  }
  return packed;
}

}  // namespace sluice
