#include "train/evaluate_checkpoint.h"

#include <filesystem>

#include "train/domains.h"
#include "train/find_checkpoint.h"
#include "train/output_file.h"
#include "train/trace/trace_replay.h"
#include "train/trace/trace_writer.h"

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
    const std::string problem = source->check();
    SLUICE_CHECK(ConfigError, problem.empty(), "--data: {}", problem);
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

void check_has_experts(const TrainedModel& trained, std::string_view flag) {
  SLUICE_CHECK(ConfigError, trained.routing->layers() > 0,
               "{}: the model has no expert layer, so nothing is routed", flag);
}

void check_sees_all_tokens(const TrainedModel& trained, std::string_view flag) {
  const std::string partial = layers_of_some_tokens(trained.recipe.model);
  SLUICE_CHECK(ConfigError, partial.empty(),
               "{}: given, but {}: a trace holds the routes of all tokens in every layer", flag,
               partial);
}

std::unique_ptr<TraceWriter> make_recorder(const TrainedModel& trained, const Dataset& data,
                                           const EvaluationOptions& options,
                                           const EvaluationTraces& traces) {
  if (traces.record.empty()) return nullptr;
  check_has_experts(trained, "--trace");
  check_sees_all_tokens(trained, "--trace");
  check_new_file("--trace", traces.record);
  TraceMeta meta{.kind = TraceKind::held_out,
                 .step = trained.meta.step,
                 .vocab_size = trained.model->vocab_size(),
                 .experts = trained.model->experts_per_layer(),
                 .domains = data.domains,
                 .tokenizer_kind = trained.meta.tokenizer_kind,
                 .tokenizer = trained.meta.tokenizer};
  return std::make_unique<TraceWriter>(traces.record, std::move(meta),
                                       options.sequences_per_batch * options.sequence_length);
}

std::unique_ptr<TraceReplay> make_replay(const TrainedModel& trained,
                                         const EvaluationTraces& traces) {
  if (traces.replay.empty()) return nullptr;
  check_has_experts(trained, "--replay");
  check_sees_all_tokens(trained, "--replay");
  SLUICE_CHECK(ConfigError, std::filesystem::exists(traces.replay), "--replay: {}: no such file",
               traces.replay);
  const ReplayOptions options{.recorded_weights = traces.replay_recorded_weights};
  const std::vector<int64_t> experts = trained.model->experts_per_layer();
  return std::make_unique<TraceReplay>(traces.replay, options, experts);
}

}  // namespace

EvaluationText EvaluationText::parse(std::string_view text) {
  const size_t comma = text.rfind(',');
  if (comma == std::string_view::npos || std::filesystem::exists(text)) {
    return {std::string(text), {}};
  }
  return {std::string(text.substr(0, comma)), std::string(text.substr(comma + 1))};
}

Evaluation evaluate_checkpoint(TrainedModel& trained, const std::vector<EvaluationText>& texts,
                               const EvaluationTraces& traces) {
  const Recipe& recipe = trained.recipe;
  Dataset data =
      load_dataset(config_of(recipe, texts), static_cast<uint64_t>(recipe.seed), trained.tokenizer);
  if (reads_domains(recipe)) number_domains(recipe, "--data", data);
  SingleRank communicator;
  EvaluationOptions options = evaluation_options(recipe, batch_sizes(recipe), communicator);
  if (!texts.empty()) options.max_tokens = std::nullopt;
  const auto recorder = make_recorder(trained, data, options, traces);
  std::optional<RoutingWatch> watch;
  if (recorder) watch.emplace(*trained.routing, *recorder);
  const auto replay = make_replay(trained, traces);
  const RouteSourceScope decisions(*trained.routing, replay.get());
  const auto result = evaluate({*trained.pool, *trained.model, *trained.routing, communicator},
                               data, options, progress_of(recipe, trained.meta));
  SLUICE_CHECK(ConfigError, result.has_value(),
               "the recipe holds nothing out (data.held_out); name files with --data");
  if (recorder) recorder->finish();
  return *result;
}

}  // namespace sluice
