#include "train/verify_resume.h"

#include <stdlib.h>

#include <algorithm>
#include <bit>
#include <filesystem>

#include "train/checkpoint/checkpoint.h"
#include "train/run.h"
#include "train/step_metrics.h"

namespace sluice {
namespace {

constexpr int64_t kSteps = 10;

/// A folder of its own, removed at the end.
class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string pattern =
        (std::filesystem::temp_directory_path() / "sluice_verify_XXXXXX").string();
    SLUICE_CHECK(CheckpointError, ::mkdtemp(pattern.data()) != nullptr,
                 "{}: cannot create a temporary folder", pattern);
    path_ = pattern;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  [[nodiscard]] const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

void add_metrics(const Record& record, RunTrace& trace) {
  for (const Record::Value& value : record.values) {
    if (value.name.starts_with("speed/") || value.name.starts_with("memory/")) continue;
    trace.metrics[fmt::format("step {}: {}", record.step, value.name)] = value.value;
  }
}

/// `count` steps, as the trainer makes them; their metrics go to `trace` when there is one.
void train(Run& run, int64_t count, RunTrace* trace) {
  for (int64_t i = 0; i < count; ++i) {
    const StepResult result = run.step({.routers = true, .experts = true});
    if (trace != nullptr) {
      add_metrics(make_step_record(run.state(), result, run.routing(), {}), *trace);
    }
    if (result.applied) run.state().losses.add(result.loss);
  }
}

/// The last steps, an evaluation, and the state after them.
RunTrace finish(Run& run, int64_t steps) {
  RunTrace trace;
  train(run, steps, &trace);
  if (const auto evaluation = run.evaluate()) {
    Record record{.step = run.state().step};
    evaluation->add_to(record);
    add_metrics(record, trace);
  }
  HashVisitor hashes;
  run.visit_state(hashes);
  trace.state = hashes.hashes();
  return trace;
}

/// Fixes the number of steps when none was asked for.
RunTrace train_straight(const Recipe& recipe, std::optional<int64_t> asked, int64_t& steps) {
  SingleRank communicator;
  Run run(recipe, communicator);
  steps = asked.value_or(std::clamp<int64_t>(run.sizes().steps / 2, 1, kSteps));
  SLUICE_CHECK(ConfigError, steps >= 1 && steps <= run.sizes().steps / 2,
               "--steps: found {}, allowed 1 to {}: the recipe trains {} steps (train.steps)",
               steps, run.sizes().steps / 2, run.sizes().steps);
  train(run, steps, nullptr);
  return finish(run, steps);
}

RunTrace train_resumed(const Recipe& recipe, int64_t steps) {
  const TemporaryFolder folder;
  const std::filesystem::path file = folder.path() / "resume.h5";
  SingleRank communicator;
  {
    Run before(recipe, communicator);
    train(before, steps, nullptr);
    write_checkpoint(real_file_system(), file, before.checkpoint(std::nullopt));
  }
  Run after(recipe, communicator, read_checkpoint(file), file.string());
  return finish(after, steps);
}

/// Entries of `a` and `b` that differ or stand in one only.
template <class Map, class Same>
std::vector<std::string> differences(const Map& a, const Map& b, Same&& same) {
  std::vector<std::string> names;
  for (const auto& [name, value] : a) {
    const auto other = b.find(name);
    if (other == b.end() || !same(value, other->second)) names.push_back(name);
  }
  for (const auto& [name, value] : b) {
    if (a.find(name) == a.end()) names.push_back(name);
  }
  return names;
}

std::string scope_of(const std::string& path) { return path.substr(0, path.find('/')); }

}  // namespace

std::vector<ComparedState> compare_traces(const RunTrace& straight, const RunTrace& resumed) {
  std::vector<ComparedState> compared;
  for (const char* name : {"model", "optim", "balance", "pruning", "data", "run"}) {
    const auto count = std::ranges::count_if(
        straight.state, [&](const auto& item) { return scope_of(item.first) == name; });
    if (count > 0) compared.push_back({.name = name, .count = count});
  }
  for (const std::string& path : differences(straight.state, resumed.state, std::equal_to<>())) {
    auto scope = std::ranges::find(compared, scope_of(path), &ComparedState::name);
    if (scope == compared.end()) scope = compared.insert(scope, {.name = scope_of(path)});
    scope->differing.push_back(path);
  }
  const auto same_bits = [](double a, double b) {
    return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b);
  };
  compared.push_back({.name = "metrics",
                      .count = std::ssize(straight.metrics),
                      .differing = differences(straight.metrics, resumed.metrics, same_bits)});
  return compared;
}

bool ResumeVerdict::is_identical() const {
  return std::ranges::all_of(compared,
                             [](const ComparedState& state) { return state.differing.empty(); });
}

ResumeVerdict verify_resume(const Recipe& recipe, const VerifyResumeOptions& options) {
  SLUICE_CHECK(ConfigError, options.steps.value_or(1) >= 1, "--steps: found {}, allowed 1 or more",
               *options.steps);
  int64_t steps = 0;
  const RunTrace straight = train_straight(recipe, options.steps, steps);
  const RunTrace resumed = train_resumed(recipe, steps);
  return {.steps = steps, .compared = compare_traces(straight, resumed)};
}

}  // namespace sluice
