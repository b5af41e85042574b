#include "train/transforms/merge_adapters.h"

#include <algorithm>
#include <map>
#include <set>
#include <vector>

#include "layers/routed_layer.h"
#include "train/build.h"

namespace sluice {
namespace {

std::vector<double> as_doubles(const Tensor& tensor) {
  return dispatch_float(tensor.dtype(), [&]<class T>() {
    const auto values = tensor.span<T>();
    return std::vector<double>(values.begin(), values.end());
  });
}

void assign(Tensor& tensor, std::span<const double> values) {
  dispatch_float(tensor.dtype(), [&]<class T>() {
    std::ranges::transform(values, tensor.data<T>(),
                           [](double value) { return static_cast<T>(value); });
  });
}

/// Adds every adapter to its matrix; how many matrices there are.
int64_t fold(const Model& model, const std::string& source) {
  std::map<Parameter*, std::vector<double>> sums;
  for (const AdaptedLinear& adapted : model.adapted_linears()) {
    auto [sum, is_new] = sums.try_emplace(adapted.weight);
    if (is_new) sum->second = as_doubles(adapted.weight->value);
    const std::string why_not = adapted.adapter->merge_into(sum->second);
    SLUICE_CHECK(
        ConfigError, why_not.empty(),
        "{}: adapter {} of {} is no one matrix: {}; allowed adapters that are the same for "
        "every token",
        source, adapted.name, adapted.weight->name, why_not);
  }
  for (auto& [weight, sum] : sums) assign(weight->value, sum);
  return std::ssize(sums);
}

/// The recipe of the model without its adapters.
Recipe without_adapters(Recipe recipe) {
  recipe.model.adapters.clear();
  recipe.train.init_from.reset();
  recipe.upcycle = nullptr;
  if (!recipe.has_experts()) {
    recipe.balance.clear();
    recipe.train.trace = nullptr;
    recipe.train.replay = nullptr;
  }
  return recipe;
}

/// Takes out the patterns that match nothing: those of adapters.
void drop_idle_patterns(std::vector<std::string>& patterns, const Model& model) {
  std::erase_if(patterns, [&](const std::string& pattern) {
    return parameters_matching(pattern, model).empty();
  });
}

/// The state of the balancers that are left, under their new numbers.
void keep_balancers(const TrainedModel& trained, int64_t left, const Checkpoint& before,
                    StateDict& state) {
  std::set<int64_t> gone;
  for (const AdaptedLinear& adapted : trained.model->adapted_linears()) {
    if (RoutedLayer* routed = adapted.adapter->routed_layer()) gone.insert(routed->layer());
  }
  const int64_t layers = trained.routing->layers();
  SLUICE_CHECK(ConfigError, layers - std::ssize(gone) == left,
               "model.adapters: found adapters that route in a group of adaptive depth, allowed "
               "ones that do not, to be merged");
  int64_t next = 0;
  for (int64_t layer = 0; layer < layers; ++layer) {
    if (gone.contains(layer)) continue;
    const std::string from = fmt::format("balance/{}/", layer);
    for (auto at = before.state.lower_bound(from);
         at != before.state.end() && at->first.starts_with(from); ++at) {
      state[fmt::format("balance/{}/{}", next, at->first.substr(from.size()))] = at->second;
    }
    ++next;
  }
}

}  // namespace

MergedModel merge_adapters(const Checkpoint& checkpoint, const std::string& source) {
  const TrainedModel trained = build_trained_model(checkpoint, source);
  const Model& model = *trained.model;
  MergedModel merged;
  merged.adapters = std::ssize(model.adapted_linears());
  SLUICE_CHECK(ConfigError, merged.adapters > 0,
               "{}: the model has no adapters (model.adapters) to merge", source);
  merged.matrices = fold(model, source);

  Recipe recipe = without_adapters(trained.recipe);
  const std::vector<std::string> freeze = std::exchange(recipe.train.freeze, {});
  const std::vector<std::string> unfreeze = std::exchange(recipe.train.unfreeze, {});
  Pool pool(Pool::Mode::shapes_only);
  const auto plain = build_model(recipe, pool, trained.tokenizer->vocab_size());
  recipe.train.freeze = freeze;
  drop_idle_patterns(recipe.train.freeze, *plain);
  const bool has_others = std::ranges::any_of(plain->parameters(), [](const Parameter* parameter) {
    return is_adapter_parameter(parameter->name);
  });
  if (has_others) {
    recipe.train.unfreeze = unfreeze;
    drop_idle_patterns(recipe.train.unfreeze, *plain);
  }

  std::set<std::string> names;
  for (const Parameter* parameter : plain->parameters()) names.insert(parameter->name);
  SaveVisitor save;
  {
    const StateScope scope(save, "model");
    for (Parameter* parameter : model.parameters()) {
      if (names.contains(parameter->name)) save.tensor(parameter->name, parameter->value);
    }
  }
  merged.checkpoint.state = save.take();
  keep_balancers(trained, std::ssize(recipe.model.routed_layers()), checkpoint,
                 merged.checkpoint.state);
  merged.checkpoint.meta = checkpoint.meta;
  merged.checkpoint.meta.recipe = resolved_text(std::move(recipe));
  return merged;
}

}  // namespace sluice
