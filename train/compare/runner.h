#pragma once
// Runs what a comparison still lacks, and keeps a result file per finished run.
//
//   DIR/recipes/<run>.yaml    the recipe of each run, resolved
//   DIR/runs/<run>/           an ordinary run folder, and console.log
//   DIR/results/<run>.json    see result.h; what is there counts as done, wherever it was made
//   DIR/lock                  one comparison at a time
//
// A run that was interrupted goes on from its checkpoint. A run that diverged is a result as well; a
// run that failed otherwise (a full disk, a kill) is tried again by the next call.

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "train/compare/comparison.h"
#include "train/compare/result.h"

namespace sluice {

/// One run of a comparison, in the order in which they are made: seed by seed, so that a comparison
/// half done has every cell.
struct ComparisonRun {
  const ComparisonCell* cell = nullptr;
  int64_t seed = 0;
  std::string name;
};
[[nodiscard]] std::vector<ComparisonRun> runs_of(const Comparison& comparison);

/// The results that are there. Throws ConfigError for those of another recipe (one line for each of
/// the first) or text.
[[nodiscard]] std::vector<RunResult> load_results(const Comparison& comparison,
                                                  const std::filesystem::path& folder);

struct ComparisonRunnerOptions {
  std::filesystem::path folder;
  std::filesystem::path results;  // usually folder / "results"
  std::filesystem::path program;  // that trains
  int jobs = 1;                   // runs at the same time; each has its share of the threads
};

/// After a run, for whoever shows it.
struct RunReport {
  std::string name;
  const RunResult* result = nullptr;  // null when it failed without one
  std::string problem;
  size_t done = 0;  // runs with a result, of `total`
  size_t total = 0;
  double seconds = 0.0;  // that this run took here
  double eta_seconds = 0.0;
};

struct RunnerSummary {
  int signal = 0;                   // that ended it; 0 when everything was tried
  std::vector<std::string> failed;  // runs without a result
};

/// Throws CheckpointError when the folder is in use or cannot be written.
[[nodiscard]] RunnerSummary run_comparison(const Comparison& comparison,
                                           const ComparisonRunnerOptions& options,
                                           const std::function<void(const RunReport&)>& report);

}  // namespace sluice
