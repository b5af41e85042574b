// `sluice compare FILE`: trains the variations of a recipe and shows them in one table.

#include <CLI/CLI.hpp>
#include <memory>

#include "autograd/support/file.h"
#include "train/cli/command.h"
#include "train/compare/comparison.h"
#include "train/compare/runner.h"
#include "train/compare/table.h"
#include "train/environment.h"
#include "train/format.h"
#include "train/report/comparison_report.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
constexpr RaiseError kRaise = raise_as<CheckpointError>;

struct CompareFlags {
  std::string file;
  std::optional<std::string> out;
  std::optional<std::string> results;
  int jobs = 1;
  bool is_dry_run = false;
};

/// Runs reach about half of the rate of large products.
constexpr double kUsualShareOfPeak = 0.5;

void print_plan(const Comparison& comparison, const std::vector<RunResult>& results) {
  const double peak = measure_gemm_peak();
  size_t width = 0;
  for (const ComparisonCell& cell : comparison.cells) width = std::max(width, cell.name().size());
  fmt::print("{:{}}  {:>11}  {:>11}  {:>10}  {:>8}  {:>9}\n", "run", width, "parameters", "active",
             "tokens", "about", "done");
  double waiting = 0.0;
  for (const ComparisonCell& cell : comparison.cells) {
    const auto done = std::ranges::count_if(results, [&](const RunResult& result) {
      return result.model == cell.model && result.variation == cell.variation;
    });
    const auto seeds = static_cast<int64_t>(comparison.config.seeds.size());
    const double seconds = cell.flops() / (peak * kUsualShareOfPeak);
    waiting += seconds * static_cast<double>(seeds - done);
    fmt::print("{:{}}  {:>11}  {:>11}  {:>10}  {:>8}  {:>9}\n", cell.name(), width,
               with_commas(cell.plan.parameters.total), with_commas(cell.plan.parameters.active),
               with_commas(cell.tokens()), in_time(seconds), fmt::format("{}/{}", done, seeds));
  }
  fmt::print(
      "{} in all, {} done; the rest takes at least {} one after the other, at half of "
      "this machine's rate of matrix products\n",
      counted(std::ssize(comparison.cells) * std::ssize(comparison.config.seeds), "run"),
      results.size(), in_time(waiting));
}

void report_run(const RunReport& report) {
  std::string found = report.problem;
  if (report.result != nullptr && report.result->status == RunStatus::done) {
    const auto show = [&](std::string_view label, std::string_view metric, int decimals) {
      if (const auto value = report.result->metric(metric)) {
        found += fmt::format("{}{} {:.{}f}", found.empty() ? "" : " | ", label, *value, decimals);
      }
    };
    show("held-out loss", "eval/loss", 4);
    show("AvgMaxVio", "load/average_max_violation", 3);
    show("tok/s", "speed/tokens_per_second", 0);
  } else {
    found = (report.result != nullptr ? "diverged: " : "failed: ") + found;
  }
  fmt::print("{}/{} {} | {} | {} | eta {}\n", report.done, report.total, report.name, found,
             in_time(report.seconds), in_time(report.eta_seconds));
  std::fflush(stdout);
}

void write_tables(const ComparisonTable& table, const fs::path& folder) {
  create_folders(real_file_system(), folder, kRaise);
  write_file_atomically(real_file_system(), folder / "table.csv", bytes_of(table_csv(table)),
                        kRaise);
  write_file_atomically(real_file_system(), folder / "table.md", bytes_of(table_markdown(table)),
                        kRaise);
}

/// 128 + n after a signal; 1 when a run has no result; 3 when one diverged.
int status_of(const RunnerSummary& summary, const std::vector<RunResult>& results) {
  constexpr int kSignalBase = 128;
  if (summary.signal != 0) return kSignalBase + summary.signal;
  if (!summary.failed.empty()) return static_cast<int>(ExitStatus::failure);
  const bool diverged =
      std::ranges::any_of(results, [](const RunResult& r) { return r.status != RunStatus::done; });
  return static_cast<int>(diverged ? ExitStatus::diverged : ExitStatus::success);
}

int compare(const CompareFlags& flags) {
  const Comparison comparison = load_comparison(recipe_file(flags.file));
  const fs::path folder = flags.out ? fs::path(*flags.out) : fs::path("runs") / comparison.name;
  const fs::path results_folder = flags.results ? fs::path(*flags.results) : folder / "results";
  std::vector<RunResult> results = load_results(comparison, results_folder);
  for (const std::string& note : comparison.notes) fmt::print("{}\n", note);
  if (flags.is_dry_run) {
    print_plan(comparison, results);
    return 0;
  }
  RunnerSummary summary;
  const size_t total = comparison.cells.size() * comparison.config.seeds.size();
  if (results.size() < total) {
    fmt::print("{}, {} done; results in {}\n", counted(static_cast<int64_t>(total), "run"),
               results.size(), results_folder.string());
    std::fflush(stdout);
    summary = run_comparison(comparison,
                             {.folder = folder,
                              .results = results_folder,
                              .program = fs::read_symlink("/proc/self/exe"),
                              .jobs = flags.jobs},
                             report_run);
    results = load_results(comparison, results_folder);
  }
  const ComparisonTable table = make_table(comparison, results);
  write_tables(table, folder);
  if (!results.empty()) {
    const std::string page = report::comparison_report(comparison.name, table);
    write_file_atomically(real_file_system(), folder / "report.html", bytes_of(page), kRaise);
  }
  fmt::print("\n{}", table_text(table));
  fmt::print("tables: {}, {}\n", (folder / "table.csv").string(), (folder / "table.md").string());
  if (!results.empty()) fmt::print("report: {}\n", (folder / "report.html").string());
  for (const std::string& name : summary.failed) {
    fmt::print("failed: {}; the same command tries it again\n", name);
  }
  if (summary.signal != 0) fmt::print("interrupted; the same command goes on from here\n");
  return status_of(summary, results);
}

}  // namespace

const Command compare_command = {
    .name = "compare",
    .summary =
        "Train variations of a recipe on the same data and seeds; one table of what is better",
    .example = "sluice compare recipes/balance_quick.yaml --out runs/balance_quick",
    .declare = [](CLI::App& app) -> std::function<int()> {
      auto flags = std::make_shared<CompareFlags>();
      app.add_option("file", flags->file,
                     "the comparison: base recipe, variations, seeds, budget; a shipped one may be "
                     "given by name")
          ->required()
          ->type_name("FILE");
      app.add_option("--out", flags->out, "folder of the comparison (runs/<name of the file>)")
          ->type_name("DIR");
      app.add_option("--results", flags->results,
                     "folder of the results; those that are there count as done (DIR/results)")
          ->type_name("DIR");
      app.add_option("--jobs", flags->jobs,
                     "runs at the same time, each with its share of the threads; losses do not "
                     "change, speeds are then those of a shared machine")
          ->check(CLI::Range(1, 256))
          ->capture_default_str();
      app.add_flag("--dry-run,--list", flags->is_dry_run, "print what would be run, and its cost");
      return [flags] { return compare(*flags); };
    },
};

}  // namespace sluice
