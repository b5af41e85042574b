#pragma once
// What a finished run of a comparison leaves: one small JSON file, RESULTS/<run>.json, from which
// tables and reports are made. It names no path and no machine's folder, so that it can be committed
// and counts as done wherever the comparison goes on.
//
//   {
//     "format": 1,
//     "comparison": "balance_bakeoff", "model": "e16k2", "variation": "bip", "seed": 1,
//     "is_twin": false, "note": "",         // note: how a dense twin was derived
//     "status": "done",                     // or "diverged", then with "problem"
//     "problem": "",
//     "recipe": "seed: 1\n...",             // portable_recipe(): what decides the numbers
//     "data": "0123456789abcdef",           // fingerprint of the encoded text; "" when not known
//     "build": "gcc 12.2.0, x86-64 avx512", "version": "0.1.0",
//     "machine": {"processor": "...", "threads": 2, "jobs": 1},   // jobs: runs at the same time
//     "parameters": {"total": n, "active": n},
//     "flops_per_token": x,
//     "steps": n, "tokens": n, "seconds": x,    // at the last evaluation; seconds of the whole run
//     "metrics": {...},                     // the last value of every metric of the run that is one
//                                           // number, under its name in metrics.jsonl: eval/...,
//                                           // load/..., train/...; of speed/... the median over
//                                           // records, of memory/... the largest; and
//         // "load/first_max_violation"     mean MaxVio of the first 100 steps
//         // "memory/peak_resident_bytes"   of the process
//     "curves": {                           // columns of equal length, by step
//       "eval": {"step": [...], "tokens": [...], "seconds": [...], "eval/loss": [...]},
//       "train": {"step": ..., "tokens": ..., "seconds": ..., "train/loss": ...,
//                 "load/max_violation": ...}    // thinned to at most 200 records
//     }
//   }
//
// Numbers that a run did not have are absent (a dense model has no load/...); in a curve they are
// null.

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "train/compare/comparison.h"

namespace sluice {

/// Steps that load/first_max_violation is the mean of.
inline constexpr int64_t kFirstSteps = 100;

struct Curve {
  std::vector<std::string> names;            // "step", "tokens", "seconds", then metrics
  std::vector<std::vector<double>> columns;  // NaN where a record has no value

  /// Empty when there is no such column.
  [[nodiscard]] const std::vector<double>& column(std::string_view name) const;
};

enum class RunStatus : uint8_t { done, diverged };

struct RunResult {
  std::string run;  // its name: that of the file, not in it
  std::string comparison;
  std::string model;
  std::string variation;
  int64_t seed = 0;
  bool is_twin = false;
  std::string note;
  RunStatus status = RunStatus::done;
  std::string problem;
  std::string recipe;
  std::string data;
  std::string build;
  std::string version;
  std::string processor;
  int64_t threads = 0;
  int64_t jobs = 1;
  int64_t parameters_total = 0;
  int64_t parameters_active = 0;
  double flops_per_token = 0.0;
  int64_t steps = 0;
  int64_t tokens = 0;
  double seconds = 0.0;
  std::map<std::string, double> metrics;
  Curve eval_curve;
  Curve train_curve;

  [[nodiscard]] std::optional<double> metric(std::string_view name) const;
};

/// How a run ended, as the process that trained it tells.
struct RunEnd {
  RunStatus status = RunStatus::done;
  std::string problem;
  int64_t threads = 0;
  int64_t jobs = 1;
  int64_t peak_resident_bytes = 0;
};

/// The recipe without what may differ between equal results: threads, logging, checkpoints, caches,
/// and the folders of its files, of which the last two parts of the path stay.
[[nodiscard]] std::string portable_recipe(const Recipe& recipe);

/// Reads the metrics.jsonl of a run. Throws CheckpointError when it has no record,
/// DataError for a damaged line.
[[nodiscard]] RunResult collect_result(const Comparison& comparison, const ComparisonCell& cell,
                                       int64_t seed, const std::filesystem::path& run_folder,
                                       const RunEnd& end);

/// Replaces `file` atomically. CheckpointError.
void write_result(const RunResult& result, const std::filesystem::path& file);
/// Nothing when there is no such file. Throws CheckpointError for one that is no result.
[[nodiscard]] std::optional<RunResult> read_result(const std::filesystem::path& file);

/// Throws ConfigError when two results of one seed, which may decide what is held out, were trained
/// on different text, naming them.
void check_same_data(const std::vector<RunResult>& results);

/// Throws ConfigError naming the keys in which the result's recipe differs from that of the cell.
/// A key that the build of the result did not know has its default there.
void check_result(const RunResult& result, const ComparisonCell& cell, int64_t seed,
                  const std::filesystem::path& file);

}  // namespace sluice
