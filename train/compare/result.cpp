#include "train/compare/result.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "autograd/support/error.h"
#include "autograd/support/file.h"
#include "data/loader.h"
#include "train/checkpoint/checkpoint.h"
#include "train/environment.h"
#include "train/field_snapshot.h"
#include "train/find_checkpoint.h"
#include "train/metrics/read_json_lines.h"
#include "train/yaml_writer.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr int kFormat = 1;
constexpr RaiseError kRaise = raise_as<CheckpointError>;
constexpr size_t kCurvePoints = 200;
constexpr size_t kShownChanges = 5;
constexpr double kMissing = std::numeric_limits<double>::quiet_NaN();

// --- recipes ---

/// "/home/me/corpus/train/code.txt" -> "train/code.txt"
std::string short_path(const std::string& path) {
  const fs::path full(path);
  if (full.empty()) return path;
  return (full.parent_path().filename() / full.filename()).string();
}

void shorten_sources(const SourceConfigs& sources) {
  for (const auto& item : sources) {
    auto& source = dynamic_cast<SourceConfig&>(*item);
    source.path = short_path(source.path);
  }
}

// --- records ---

using JsonRecord = nlohmann::json;

/// The records of metrics.jsonl; none where there is no file.
std::vector<JsonRecord> read_records(const fs::path& file) {
  std::vector<JsonRecord> records;
  if (!fs::exists(file)) return records;
  read_json_lines(file, [&](const JsonRecord& record) {
    if (record.contains("step")) records.push_back(record);
  });
  return records;
}

double number_of(const JsonRecord& record, const std::string& name) {
  const auto found = record.find(name);
  return found != record.end() && found->is_number() ? found->get<double>() : kMissing;
}

Curve curve_of(const std::vector<JsonRecord>& records, const std::string& required,
               std::vector<std::string> names, size_t most) {
  std::vector<const JsonRecord*> chosen;
  for (const JsonRecord& record : records) {
    if (record.contains(required)) chosen.push_back(&record);
  }
  Curve curve{.names = std::move(names)};
  curve.columns.resize(curve.names.size());
  // Every stride-th, counted from the end: the last is always there.
  const size_t stride = std::max<size_t>(1, (chosen.size() + most - 1) / most);
  for (size_t i = 0; i < chosen.size(); ++i) {
    if ((chosen.size() - 1 - i) % stride != 0) continue;
    for (size_t c = 0; c < curve.names.size(); ++c) {
      curve.columns[c].push_back(number_of(*chosen[i], curve.names[c]));
    }
  }
  return curve;
}

double median(std::vector<double> values) {
  std::ranges::sort(values);
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2.0;
}

/// One number per metric: the last; the median of speeds; the largest of memory.
std::map<std::string, double> reduce(const std::vector<JsonRecord>& records) {
  std::map<std::string, double> result;
  std::map<std::string, std::vector<double>> speeds;
  for (const JsonRecord& record : records) {
    for (const auto& [name, value] : record.items()) {
      if (!value.is_number() || name.find('/') == std::string::npos) continue;
      const double number = value.get<double>();
      if (name.starts_with("speed/")) {
        speeds[name].push_back(number);
      } else if (name.starts_with("memory/")) {
        result[name] = std::max(result[name], number);
      } else {
        result[name] = number;
      }
    }
    const double average = number_of(record, "load/average_max_violation");
    if (record["step"].get<int64_t>() <= kFirstSteps && !std::isnan(average)) {
      result["load/first_max_violation"] = average;
    }
  }
  for (auto& [name, values] : speeds) result[name] = median(std::move(values));
  return result;
}

/// The fingerprint that the newest checkpoint was trained on.
std::string data_fingerprint(const fs::path& run_folder) {
  std::vector<int64_t> words;
  try {
    std::vector<std::string> notes;
    const auto found = find_checkpoint(run_folder, CheckpointChoice::newest, notes);
    LoadVisitor load(found.checkpoint.state, found.path.string(),
                     {.wanted = [](std::string_view path) { return path == "data/loader"; }});
    const StateScope scope(load, "data");
    load.list("loader", words);
  } catch (const Error&) {
    return {};  // a run that diverged before its first checkpoint
  }
  return fmt::format("{:016x}", LoaderState::from_words(words).fingerprint);
}

// --- JSON ---

ordered_json to_json(const Curve& curve) {
  ordered_json result = ordered_json::object();
  for (size_t c = 0; c < curve.names.size(); ++c) {
    ordered_json column = ordered_json::array();
    for (const double value : curve.columns[c]) {
      column.push_back(std::isfinite(value) ? ordered_json(value) : ordered_json());
    }
    result[curve.names[c]] = std::move(column);
  }
  return result;
}

Curve curve_from(const ordered_json& object) {
  Curve curve;
  for (const auto& [name, column] : object.items()) {
    curve.names.push_back(name);
    auto& values = curve.columns.emplace_back();
    for (const auto& value : column) {
      values.push_back(value.is_number() ? value.get<double>() : kMissing);
    }
  }
  return curve;
}

ordered_json to_json(const RunResult& result) {
  ordered_json metrics = ordered_json::object();
  for (const auto& [name, value] : result.metrics) metrics[name] = value;
  return {
      {"format", kFormat},
      {"comparison", result.comparison},
      {"model", result.model},
      {"variation", result.variation},
      {"seed", result.seed},
      {"is_twin", result.is_twin},
      {"note", result.note},
      {"status", result.status == RunStatus::done ? "done" : "diverged"},
      {"problem", result.problem},
      {"recipe", result.recipe},
      {"data", result.data},
      {"build", result.build},
      {"version", result.version},
      {"machine",
       {{"processor", result.processor}, {"threads", result.threads}, {"jobs", result.jobs}}},
      {"parameters", {{"total", result.parameters_total}, {"active", result.parameters_active}}},
      {"flops_per_token", result.flops_per_token},
      {"steps", result.steps},
      {"tokens", result.tokens},
      {"seconds", result.seconds},
      {"metrics", std::move(metrics)},
      {"curves", {{"eval", to_json(result.eval_curve)}, {"train", to_json(result.train_curve)}}}};
}

RunResult from_json(const ordered_json& json) {
  const auto& machine = json.at("machine");
  RunResult result{.comparison = json.at("comparison"),
                   .model = json.at("model"),
                   .variation = json.at("variation"),
                   .seed = json.at("seed"),
                   .is_twin = json.at("is_twin"),
                   .note = json.at("note"),
                   .status = json.at("status") == "done" ? RunStatus::done : RunStatus::diverged,
                   .problem = json.at("problem"),
                   .recipe = json.at("recipe"),
                   .data = json.value("data", ""),
                   .build = json.at("build"),
                   .version = json.at("version"),
                   .processor = machine.at("processor"),
                   .threads = machine.at("threads"),
                   .jobs = machine.at("jobs"),
                   .parameters_total = json.at("parameters").at("total"),
                   .parameters_active = json.at("parameters").at("active"),
                   .flops_per_token = json.at("flops_per_token"),
                   .steps = json.at("steps"),
                   .tokens = json.at("tokens"),
                   .seconds = json.at("seconds"),
                   .eval_curve = curve_from(json.at("curves").at("eval")),
                   .train_curve = curve_from(json.at("curves").at("train"))};
  for (const auto& [name, value] : json.at("metrics").items()) {
    if (value.is_number()) result.metrics[name] = value;
  }
  return result;
}

}  // namespace

const std::vector<double>& Curve::column(std::string_view name) const {
  static const std::vector<double> none;
  const auto found = std::ranges::find(names, name);
  return found == names.end() ? none : columns[static_cast<size_t>(found - names.begin())];
}

std::optional<double> RunResult::metric(std::string_view name) const {
  const auto found = metrics.find(std::string(name));
  return found == metrics.end() ? std::nullopt : std::optional(found->second);
}

std::string portable_recipe(const Recipe& recipe) {
  // Read back from its text, so that its parts are its own.
  Recipe copy = parse_recipe(resolved_text(recipe), "the recipe");
  copy.threads.reset();
  copy.checkpoint = {};
  copy.log = {};
  copy.data.cache.reset();
  copy.data.prefetch = DataConfig().prefetch;
  copy.train.max_time = TrainConfig().max_time;
  shorten_sources(copy.data.sources);
  shorten_sources(copy.data.held_out.sources);
  if (copy.train.init_from) *copy.train.init_from = short_path(*copy.train.init_from);
  return write_yaml(copy, {.with_absolute_paths = false});
}

RunResult collect_result(const Comparison& comparison, const ComparisonCell& cell, int64_t seed,
                         const fs::path& run_folder, const RunEnd& end) {
  const fs::path file = run_folder / "metrics.jsonl";
  const std::vector<JsonRecord> records = read_records(file);
  SLUICE_CHECK(CheckpointError, !records.empty(), "{}: no record", file.string());
  RunResult result{.run = cell.run_name(seed),
                   .comparison = comparison.name,
                   .model = cell.model,
                   .variation = cell.variation,
                   .seed = seed,
                   .is_twin = cell.is_twin(),
                   .note = cell.note,
                   .status = end.status,
                   .problem = end.problem,
                   .recipe = portable_recipe(cell.recipe_of(seed)),
                   .data = data_fingerprint(run_folder),
                   .build = build_fingerprint(),
                   .version = SLUICE_VERSION,
                   .processor = describe_machine().processor,
                   .threads = end.threads,
                   .jobs = end.jobs,
                   .parameters_total = cell.plan.last_parameters().total,
                   .parameters_active = cell.plan.last_parameters().active,
                   .flops_per_token = cell.plan.flops_per_token(),
                   .steps = records.back()["step"],
                   .tokens = records.back()["tokens"],
                   .seconds = number_of(records.back(), "seconds"),
                   .metrics = reduce(records)};
  if (end.peak_resident_bytes > 0) {
    result.metrics["memory/peak_resident_bytes"] = static_cast<double>(end.peak_resident_bytes);
  }
  result.eval_curve =
      curve_of(records, "eval/loss", {"step", "tokens", "seconds", "eval/loss"}, kCurvePoints);
  result.train_curve =
      curve_of(records, "train/loss",
               {"step", "tokens", "seconds", "train/loss", "load/max_violation"}, kCurvePoints);
  return result;
}

void write_result(const RunResult& result, const fs::path& file) {
  create_folders(real_file_system(), file.parent_path(), kRaise);
  write_file_atomically(
      real_file_system(), file,
      bytes_of(to_json(result).dump(1, ' ', false, nlohmann::json::error_handler_t::replace) +
               "\n"),
      kRaise);
}

std::optional<RunResult> read_result(const fs::path& file) {
  if (!fs::exists(file)) return std::nullopt;
  try {
    const auto json = ordered_json::parse(read_file(file, kRaise));
    SLUICE_CHECK(CheckpointError, json.at("format") == kFormat,
                 "{}: found format {}, this program reads {}", file.string(),
                 json.at("format").dump(), kFormat);
    RunResult result = from_json(json);
    result.run = file.stem().string();
    return result;
  } catch (const nlohmann::json::exception& error) {
    throw CheckpointError(
        fmt::format("{}: is no result of a comparison ({}); delete it, and its "
                    "run is repeated",
                    file.string(), error.what()));
  }
}

void check_same_data(const std::vector<RunResult>& results) {
  std::map<int64_t, const RunResult*> first_of_seed;
  for (const RunResult& result : results) {
    if (result.data.empty()) continue;
    const RunResult& first = *first_of_seed.try_emplace(result.seed, &result).first->second;
    SLUICE_CHECK(ConfigError, result.data == first.data,
                 "results of different text: {} was trained on {}, {} on {}; move one of them away",
                 first.run, first.data, result.run, result.data);
  }
}

void check_result(const RunResult& result, const ComparisonCell& cell, int64_t seed,
                  const fs::path& file) {
  const std::string expected = portable_recipe(cell.recipe_of(seed));
  if (result.recipe == expected) return;
  Recipe before = with_context([&] { return file.string(); },
                               [&] { return parse_recipe(result.recipe, "its recipe"); });
  Recipe after = parse_recipe(expected, "the recipe");
  std::vector<std::string> changed;
  for (const FieldDifference& difference : differences(before, after)) {
    changed.push_back(
        fmt::format("{} was {}, is {}", difference.key, difference.before, difference.after));
  }
  if (changed.size() > kShownChanges) {
    const size_t left_out = changed.size() - kShownChanges;
    changed.resize(kShownChanges);
    changed.push_back(fmt::format("and {} more", left_out));
  }
  SLUICE_CHECK(ConfigError, changed.empty(),
               "{}: belongs to another recipe ({}); move it away to train again, or give another "
               "folder with --out or --results",
               file.string(), fmt::join(changed, "; "));
}

}  // namespace sluice
