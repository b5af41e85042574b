#include "train/pruning_schedule.h"

#include <algorithm>

#include "train/transforms/transforming.h"

namespace sluice {
namespace {

std::unique_ptr<Transform> transform_of(const PruningStage& stage) {
  return transform_registry().at(stage.method.type).make(*stage.method.config);
}

/// The same recipe with sections of its own.
Recipe copy_of(Recipe recipe) {
  recipe.train.pruning = nullptr;
  return parse_recipe(resolved_text(recipe), "the pruned recipe");
}

/// A router that goes by no scores would send tokens elsewhere, and no row of it could be taken away.
void check_routers(std::span<const ExpertLayer> layers) {
  for (const ExpertLayer& layer : layers) {
    const Tagged& router = layer.config->router;
    const auto* config = dynamic_cast<const RouterConfig*>(router.config.get());
    SLUICE_CHECK(ConfigError, config == nullptr || !config->is_fixed(),
                 "model.{}.router: found {}, which chooses without scores and has no rows to take "
                 "away; allowed a router whose choice follows from scores",
                 layer.section, router.type);
  }
}

/// Whether stage `index` can be done after those before it.
void check_stage(const Recipe& recipe, int64_t index, const RunSizes& sizes) {
  const std::string where = fmt::format("train.pruning.stages.{}", index);
  const PruningStage& stage = pruning_of(recipe)->stage(index);
  SLUICE_CHECK(ConfigError, stage.step < sizes.steps,
               "{}.step: found {}, allowed less than {}, the steps of the run (train.steps)", where,
               stage.step, sizes.steps);
  const Recipe before = pruned_recipe(recipe, index);
  const Progress progress = sizes.progress(stage.step, stage.step * sizes.tokens_per_step);
  const std::vector<ExpertLayer> layers = expert_layers(before, progress, where);
  with_context([&] { return where; },
               [&] {
                 const auto transform = transform_of(stage);
                 transform->check(layers);
                 check_outputs(layers, transform->needs());
                 check_routers(layers);
                 std::vector<ExpertSizes> left;
                 for (const ExpertLayer& layer : layers) {
                   left.push_back(transform->sizes(
                       {layer.config->num_experts, layer.config->intermediate_size}));
                 }
                 const StateShapes after = shapes_of(pruned_recipe(recipe, index + 1));
                 check_shapes(shapes_of(before), after, layers, left);
               });
}

void check_stages(const Recipe& recipe, const RunSizes& sizes) {
  SLUICE_CHECK(
      ConfigError, recipe.train.replay == nullptr,
      "train.pruning: given beside train.replay, whose experts are those of another run; a "
      "run has one of them");
  SLUICE_CHECK(ConfigError, recipe.train.freeze_experts.empty(),
               "train.pruning: given beside train.freeze_experts, which names experts by numbers "
               "that change; a run has one of them");
  for (int64_t i = 0; i < pruning_of(recipe)->num_stages(); ++i) check_stage(recipe, i, sizes);
}

}  // namespace

void PruningStage::fields(FieldVisitor& v) {
  v.integer({"step", "steps of the run that are done when the experts change", true}, step,
            {.min = 1});
  v.tagged({"method", "how they become fewer or narrower", true}, method, transform_choices());
}

void PruningConfig::fields(FieldVisitor& v) {
  v.object_list({"stages", "what changes and when, in the order of the steps", true}, stages,
                [] { return std::make_shared<PruningStage>(); });
  v.integer({"calibration_tokens",
             "tokens of the training text on which experts are watched before a stage, in whole "
             "batches"},
            calibration_tokens, {.min = 1});
  v.optional_integer(
      {"probe_tokens", "held-out tokens whose loss is measured before and after a stage"},
      probe_tokens, {.min = 1}, "all");
}

std::string PruningConfig::check() const {
  if (stages.empty()) return "stages: found none, allowed one or more";
  for (int64_t i = 1; i < num_stages(); ++i) {
    if (stage(i).step >= stage(i - 1).step) continue;
    return fmt::format("stages.{}.step: found {}, allowed at least {} (stages.{}.step)", i,
                       stage(i).step, stage(i - 1).step, i - 1);
  }
  return {};
}

const PruningStage& PruningConfig::stage(int64_t index) const {
  return dynamic_cast<const PruningStage&>(*stages[static_cast<size_t>(index)]);
}

const PruningConfig* pruning_of(const Recipe& recipe) {
  return dynamic_cast<const PruningConfig*>(recipe.train.pruning.get());
}

Recipe pruned_recipe(const Recipe& recipe, int64_t stages) {
  const PruningConfig* config = pruning_of(recipe);
  if (config == nullptr) return recipe;
  Recipe after = copy_of(recipe);
  if (stages == 0) return after;
  std::vector<std::string> sections;
  for (const SublayerSpec& sublayer : after.model.sublayers()) {
    const bool has_experts = dynamic_cast<const ExpertsConfig*>(sublayer.config) != nullptr;
    if (has_experts && std::ranges::find(sections, sublayer.key) == sections.end()) {
      sections.push_back(sublayer.key);
    }
  }
  for (const std::string& section : sections) {
    ExpertsConfig& experts = experts_section(after.model, section);
    ExpertSizes sizes{experts.num_experts, experts.intermediate_size};
    for (int64_t i = 0; i < stages; ++i) sizes = transform_of(config->stage(i))->sizes(sizes);
    experts.num_experts = sizes.experts;
    experts.intermediate_size = sizes.width;
  }
  // Reading it back applies every rule of a recipe to the new numbers.
  return copy_of(std::move(after));
}

std::string check_pruning(const Recipe& recipe, const RunSizes& sizes) {
  if (pruning_of(recipe) == nullptr) return {};
  try {
    check_stages(recipe, sizes);
    return {};
  } catch (const ConfigError& error) {
    return error.what();
  }
}

int64_t pruned_stages(const StateDict& state, const Recipe& recipe, const std::string& source) {
  const PruningConfig* config = pruning_of(recipe);
  const auto found = state.find(kPrunedStages);
  if (config == nullptr || found == state.end()) return 0;
  const auto values = found->second.values<int64_t>();
  SLUICE_CHECK(CheckpointError,
               values.size() == 1 && values[0] >= 0 && values[0] <= config->num_stages(),
               "{}: /{} is no number of stages of train.pruning, which has {}", source,
               kPrunedStages, config->num_stages());
  return values[0];
}

Recipe checkpoint_recipe(const Checkpoint& checkpoint, const std::string& source) {
  const Recipe recipe = with_context(
      [&] { return source; }, [&] { return parse_recipe(checkpoint.meta.recipe, "its recipe"); });
  return pruned_recipe(recipe, pruned_stages(checkpoint.state, recipe, source));
}

}  // namespace sluice
