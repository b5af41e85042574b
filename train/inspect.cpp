#include "train/inspect.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>

#include "train/metrics/read_json_lines.h"
#include "train/pruning_schedule.h"
#include "train/run_folder.h"
#include "train/run_state.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::optional<int64_t> total_steps(const Recipe& recipe) {
  if (recipe.train.steps.unit == DurationUnit::epochs) return std::nullopt;
  return derive_sizes(recipe, 0).steps;
}

/// Parameters and experts, from a model without memory.
void inspect_model(const Recipe& recipe, CheckpointInspection& result) {
  const auto tokenizer = deserialize_tokenizer(result.meta.tokenizer_kind, result.meta.tokenizer);
  Pool shapes(Pool::Mode::shapes_only);
  const auto model = build_model(recipe, shapes, tokenizer->vocab_size());
  result.pattern = recipe.model.pattern;
  result.hidden_size = recipe.model.hidden_size;
  result.vocab_size = model->vocab_size();
  result.experts = model->experts_per_layer();
  result.parameters = count_parameters(recipe, *model, progress_of(recipe, result.meta));
  for (const Parameter* parameter : model->parameters()) {
    ParameterInfo info{.name = parameter->name,
                       .size = parameter->value.numel(),
                       .trainable = parameter->trainable};
    for (int i = 0; i < parameter->value.rank(); ++i) info.dims.push_back(parameter->value.dim(i));
    result.table.push_back(std::move(info));
  }
}

void inspect_run_state(const Recipe& recipe, const StateDict& state, CheckpointInspection& result) {
  RunState run(result.experts, recipe.log.dead_after);
  LoadVisitor load(state, result.path.string(), {.wanted = [&](std::string_view path) {
                     return path.starts_with("run/") &&
                            (state.contains(path) || !RunState::may_be_missing(path));
                   }});
  {
    const StateScope scope(load, "run");
    run.visit_state(load);
  }
  load.finish();
  result.seconds = run.seconds;
  result.skipped = run.skipped;
  result.best_eval_step = run.best_eval_step;
  if (std::isfinite(run.best_eval_loss)) result.best_eval_loss = run.best_eval_loss;
  for (size_t layer = 0; layer < result.experts.size(); ++layer) {
    result.loads.push_back(run.loads.layer(static_cast<int64_t>(layer)));
  }
  const auto known = state.lower_bound("run/watch/alarms/");
  if (known == state.end() || !RunState::may_be_missing(known->first)) return;
  result.alarms.emplace();
  for (size_t i = 0; i < run.alarms.alarms.size(); ++i) {
    if (run.alarms.alarms[i].on != 0) result.alarms->emplace_back(alarm_types()[i].name);
  }
}

std::vector<double> as_numbers(const StateArray& array) {
  const auto convert = [](auto values) {
    return std::vector<double>(values.begin(), values.end());
  };
  switch (array.type) {
    case ElementType::f32:
      return convert(array.values<float>());
    case ElementType::f64:
      return convert(array.values<double>());
    case ElementType::i64:
      return convert(array.values<int64_t>());
    default:
      return {};
  }
}

/// "balance/<layer>/<name>" of all layers, by name.
std::vector<BalanceState> balance_state(const StateDict& state) {
  constexpr std::string_view kScope = "balance/";
  std::map<std::string, BalanceState> found;
  for (auto at = state.lower_bound(kScope); at != state.end() && at->first.starts_with(kScope);
       ++at) {
    const size_t slash = at->first.find('/', kScope.size());
    const std::vector<double> values = as_numbers(at->second);
    if (slash == std::string::npos || values.empty()) continue;
    const auto [least, greatest] = std::ranges::minmax(values);
    const std::string name = at->first.substr(slash + 1);
    const auto [entry, is_first] =
        found.try_emplace(name, BalanceState{name, 0, at->second.dims, least, greatest});
    BalanceState& all = entry->second;
    ++all.layers;
    all.least = std::min(all.least, least);
    all.greatest = std::max(all.greatest, greatest);
  }
  std::vector<BalanceState> result;
  for (auto& [name, all] : found) result.push_back(std::move(all));
  return result;
}

CheckpointInspection inspect_checkpoint(const CheckpointStore::Found& found) {
  CheckpointInspection result{.path = found.path, .meta = found.checkpoint.meta};
  result.bytes = static_cast<int64_t>(fs::file_size(found.path));
  const Recipe recipe = checkpoint_recipe(found.checkpoint, found.path.string());
  with_context([&] { return found.path.string(); },
               [&] {
                 result.total_steps = total_steps(recipe);
                 for (const Tagged& method : recipe.balance) result.balance.push_back(method.type);
                 inspect_model(recipe, result);
               });
  inspect_run_state(recipe, found.checkpoint.state, result);
  result.balance_state = balance_state(found.checkpoint.state);
  return result;
}

CheckpointFile inspect_file(const fs::path& path, int64_t step) {
  CheckpointFile file{.path = path, .step = step};
  std::error_code failed;
  const auto bytes = fs::file_size(path, failed);
  if (!failed) file.bytes = static_cast<int64_t>(bytes);
  try {
    file.eval_loss = read_checkpoint_summary(path).meta.eval_loss;
  } catch (const CheckpointError& error) {
    file.problem = error.what();
  }
  return file;
}

/// The loads in the last record of metrics.jsonl that has some.
std::optional<LastStep> last_step(const fs::path& metrics) {
  if (!fs::exists(metrics)) return std::nullopt;
  const auto record = last_json_line(
      metrics, [](const json& candidate) { return candidate.contains("load/experts/0"); });
  if (!record) return std::nullopt;
  LastStep last{.step = record->value("step", int64_t{0})};
  for (size_t layer = 0;; ++layer) {
    const auto counts = record->find(fmt::format("load/experts/{}", layer));
    if (counts == record->end()) return last;
    std::vector<int64_t> loads;
    for (const json& count : *counts) loads.push_back(std::llround(count.get<double>()));
    last.counts.push_back(std::move(loads));
  }
}

/// The alarms of routing.jsonl; lines that are none are passed over.
std::vector<ReportedAlarm> reported_alarms(const fs::path& routing) {
  std::vector<ReportedAlarm> alarms;
  if (!fs::exists(routing)) return alarms;
  std::istringstream lines(read_file(routing, raise_as<CheckpointError>));
  for (std::string line; std::getline(lines, line);) {
    // Loads and probes are long, and no line of an alarm begins otherwise (sinks/routing.cpp).
    if (!line.starts_with(R"({"kind":"alarm")")) continue;
    const json record = json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!record.is_object()) continue;
    ReportedAlarm alarm{.step = record.value("step", int64_t{0}),
                        .name = record.value("name", ""),
                        .advice = record.value("advice", "")};
    const auto layer = record.find("layer");
    if (layer != record.end() && layer->is_number_integer()) alarm.layer = layer->get<int64_t>();
    alarms.push_back(std::move(alarm));
  }
  return alarms;
}

RunInspection inspect_run(const fs::path& folder) {
  const RunFolder run = RunFolder::open_for_reading(folder);
  RunInspection result{.folder = folder};
  const CheckpointStore store(checkpoint_folder(folder));
  for (const int64_t step : store.steps()) {
    result.files.push_back(inspect_file(store.path_of(step), step));
  }
  SLUICE_CHECK(ConfigError, !result.files.empty() || fs::exists(run.recipe()),
               "{}: no run folder: it holds neither a recipe.yaml nor checkpoints",
               folder.string());
  result.last_step = last_step(run.metrics());
  result.alarms = reported_alarms(run.routing());
  return result;
}

bool any_whole(const RunInspection& run) {
  return std::ranges::any_of(run.files,
                             [](const CheckpointFile& file) { return file.problem.empty(); });
}

}  // namespace

Inspection inspect(const fs::path& path, CheckpointChoice choice) {
  Inspection result;
  if (fs::is_directory(path)) result.run = inspect_run(path);
  if (result.run && !any_whole(*result.run)) return result;
  std::vector<std::string> notes;  // stand in the run's list of files
  result.checkpoint = inspect_checkpoint(find_checkpoint(path, choice, notes));
  return result;
}

}  // namespace sluice
