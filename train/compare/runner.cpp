#include "train/compare/runner.h"

#include <algorithm>
#include <chrono>
#include <deque>
#include <list>
#include <thread>

#include "autograd/support/error.h"
#include "autograd/support/file.h"
#include "autograd/support/parallel.h"
#include "train/compare/run_process.h"
#include "train/run_folder.h"
#include "train/signals.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using Clock = std::chrono::steady_clock;

constexpr RaiseError kRaise = raise_as<CheckpointError>;
constexpr auto kPollEvery = std::chrono::milliseconds(20);
// Exit statuses of `sluice train`.
constexpr int kSuccess = 0;
constexpr int kDiverged = 3;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

class ComparisonRunner {
 public:
  ComparisonRunner(const Comparison& comparison, const ComparisonRunnerOptions& options,
                   const std::function<void(const RunReport&)>& report)
      : comparison_(comparison),
        options_(options),
        report_(report),
        lock_(RunFolder::open_for_writing(options.folder)),
        threads_(std::max(1, num_processors() / options.jobs)) {
    for (const char* folder : {"recipes", "runs"}) {
      create_folders(real_file_system(), options_.folder / folder, kRaise);
    }
    for (ComparisonRun& run : runs_of(comparison)) {
      ++total_;
      if (fs::exists(result_file(run))) {
        ++done_;
      } else {
        waiting_flops_ += run.cell->flops();
        waiting_.push_back(std::move(run));
      }
    }
  }

  RunnerSummary run() {
    const SignalWatch signals;
    RunnerSummary summary;
    bool was_told = false;
    while (!active_.empty() || (!waiting_.empty() && !was_told)) {
      if (!was_told && signals.received() != 0) {
        was_told = true;
        summary.signal = signals.received();
        for (const Active& active : active_) active.process.interrupt();
      }
      if (!was_told) start_waiting();
      // Ctrl-C reaches the runs as well, and may end one that is still starting before it is told.
      collect(summary, was_told || signals.received() != 0);
      std::this_thread::sleep_for(kPollEvery);
    }
    return summary;
  }

 private:
  struct Active {
    ComparisonRun run;
    Clock::time_point start;
    int64_t console_offset;
    RunProcess process;
  };

  [[nodiscard]] fs::path result_file(const ComparisonRun& run) const {
    return options_.results / (run.name + ".json");
  }
  [[nodiscard]] fs::path run_folder(const ComparisonRun& run) const {
    return options_.folder / "runs" / run.name;
  }
  [[nodiscard]] fs::path console_file(const ComparisonRun& run) const {
    return run_folder(run) / "console.log";
  }

  void start_waiting() {
    while (active_.size() < static_cast<size_t>(options_.jobs) && !waiting_.empty()) {
      ComparisonRun run = std::move(waiting_.front());
      waiting_.pop_front();
      const fs::path recipe = options_.folder / "recipes" / (run.name + ".yaml");
      write_file_atomically(real_file_system(), recipe,
                            bytes_of(resolved_text(run.cell->recipe_of(run.seed))), kRaise);
      create_folders(real_file_system(), run_folder(run), kRaise);
      const fs::path console = console_file(run);
      const auto offset =
          static_cast<int64_t>(fs::exists(console) ? fs::file_size(console) : uintmax_t{0});
      RunProcess process({.program = options_.program,
                          .recipe = recipe,
                          .folder = run_folder(run),
                          .console = console,
                          .threads = threads_});
      active_.push_back({std::move(run), Clock::now(), offset, std::move(process)});
    }
  }

  void collect(RunnerSummary& summary, bool is_stopping) {
    for (auto active = active_.begin(); active != active_.end();) {
      const auto exit = active->process.poll();
      if (!exit) {
        ++active;
        continue;
      }
      // A run that was told to stop has saved its state; it is no result and no failure.
      const bool stopped = is_stopping && exit->status != kSuccess && exit->status != kDiverged;
      if (!stopped) finish(*active, *exit, summary);
      active = active_.erase(active);
    }
  }

  void finish(const Active& active, const RunExit& exit, RunnerSummary& summary) {
    const ComparisonRun& run = active.run;
    RunReport report{.name = run.name, .total = total_, .seconds = seconds_since(active.start)};
    if (exit.status != kSuccess) {
      report.problem = last_message(console_file(run), active.console_offset);
      if (report.problem.empty()) {
        report.problem =
            fmt::format("ended with status {}; see {}", exit.status, console_file(run).string());
      }
    }
    const std::optional<RunResult> result = collect_result_of(active, exit, report.problem);
    if (result) {
      report.result = &*result;
      ++done_;
    } else {
      summary.failed.push_back(run.name);
    }
    waiting_flops_ -= run.cell->flops();
    finished_flops_ += run.cell->flops();
    report.done = done_;
    report.eta_seconds = seconds_since(start_) * waiting_flops_ / finished_flops_;
    report_(report);
  }

  /// Writes the result of a run that came to its end or diverged; nullopt, and a problem, when there
  /// is none. What one run lacks (it diverged before its first record) is no reason to end the others.
  std::optional<RunResult> collect_result_of(const Active& active, const RunExit& exit,
                                             std::string& problem) const {
    if (exit.status != kSuccess && exit.status != kDiverged) return std::nullopt;
    const ComparisonRun& run = active.run;
    try {
      RunResult result =
          collect_result(comparison_, *run.cell, run.seed, run_folder(run),
                         {.status = exit.status == kSuccess ? RunStatus::done : RunStatus::diverged,
                          .problem = problem,
                          .threads = threads_,
                          .jobs = options_.jobs,
                          .peak_resident_bytes = exit.peak_resident_bytes});
      write_result(result, result_file(run));
      if (exit.status == kSuccess && !comparison_.config.keep_checkpoints) {
        fs::remove_all(run_folder(run) / "checkpoints");
      }
      return result;
    } catch (const Error& error) {
      problem = problem.empty() ? error.what() : fmt::format("{}; {}", problem, error.what());
      return std::nullopt;
    }
  }

  const Comparison& comparison_;
  const ComparisonRunnerOptions& options_;
  const std::function<void(const RunReport&)>& report_;
  RunFolder lock_;
  int threads_;
  Clock::time_point start_ = Clock::now();
  size_t total_ = 0;
  size_t done_ = 0;
  double waiting_flops_ = 0.0;  // of the runs that are waiting or active
  double finished_flops_ = 0.0;
  std::deque<ComparisonRun> waiting_;
  std::list<Active> active_;
};

}  // namespace

std::vector<ComparisonRun> runs_of(const Comparison& comparison) {
  std::vector<ComparisonRun> runs;
  for (const int64_t seed : comparison.config.seeds) {
    for (const ComparisonCell& cell : comparison.cells) {
      runs.push_back({&cell, seed, cell.run_name(seed)});
    }
  }
  return runs;
}

std::vector<RunResult> load_results(const Comparison& comparison, const fs::path& folder) {
  constexpr size_t kMostShown = 3;  // a change of the base is a problem of every result
  std::vector<RunResult> results;
  std::vector<std::string> problems;
  for (const ComparisonRun& run : runs_of(comparison)) {
    const fs::path file = folder / (run.name + ".json");
    auto result = read_result(file);
    if (!result) continue;
    try {
      check_result(*result, *run.cell, run.seed, file);
      results.push_back(std::move(*result));
    } catch (const ConfigError& error) {
      problems.emplace_back(error.what());
    }
  }
  if (problems.size() > kMostShown) {
    const size_t more = problems.size() - kMostShown;
    problems.resize(kMostShown);
    problems.push_back(fmt::format("and {} more results of other recipes", more));
  }
  SLUICE_CHECK(ConfigError, problems.empty(), "{}", fmt::join(problems, "\n"));
  check_same_data(results);
  return results;
}

RunnerSummary run_comparison(const Comparison& comparison, const ComparisonRunnerOptions& options,
                             const std::function<void(const RunReport&)>& report) {
  return ComparisonRunner(comparison, options, report).run();
}

}  // namespace sluice
