#include "train/evaluate_checkpoint.h"

#include <filesystem>

#include "train/find_checkpoint.h"

namespace sluice {
namespace {

DataConfig config_of(const Recipe& recipe, const std::vector<EvaluationText>& texts) {
  DataConfig config = recipe.data;
  if (texts.empty()) return config;
  config.sources.clear();
  config.held_out.sources.clear();
  for (const EvaluationText& text : texts) {
    SLUICE_CHECK(ConfigError, !text.path.empty(), "--data: found no file before the comma");
    auto source = std::make_shared<SourceConfig>();
    source->path = std::filesystem::absolute(text.path).string();
    source->domain = text.domain;
    config.held_out.sources.push_back(std::move(source));
  }
  return config;
}

/// The sizes of batches, which do not depend on the run's length: that may be given in epochs of
/// data that is not read here.
RunSizes batch_sizes(Recipe recipe) {
  recipe.train.steps = {1, DurationUnit::steps};
  return derive_sizes(recipe, 0);
}

}  // namespace

EvaluationText EvaluationText::parse(std::string_view text) {
  const size_t comma = text.rfind(',');
  if (comma == std::string_view::npos || std::filesystem::exists(text)) {
    return {std::string(text), {}};
  }
  return {std::string(text.substr(0, comma)), std::string(text.substr(comma + 1))};
}

Evaluation evaluate_checkpoint(TrainedModel& trained, const std::vector<EvaluationText>& texts) {
  const Recipe& recipe = trained.recipe;
  const Dataset data =
      load_dataset(config_of(recipe, texts), static_cast<uint64_t>(recipe.seed), trained.tokenizer);
  SingleRank communicator;
  EvaluationOptions options = evaluation_options(recipe, batch_sizes(recipe), communicator);
  if (!texts.empty()) options.max_tokens = std::nullopt;
  const auto result = evaluate({*trained.pool, *trained.model, *trained.routing, communicator},
                               data, options, progress_of(recipe, trained.meta));
  SLUICE_CHECK(ConfigError, result.has_value(),
               "the recipe holds nothing out (data.held_out); name files with --data");
  return *result;
}

}  // namespace sluice
