#pragma once
// What is in a checkpoint or a run, without running anything.
//
//   const Inspection found = inspect("runs/quickstart", CheckpointChoice::newest);
//   fmt::print("{}", inspection_text(found));       // inspect_text.h

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "balance/load.h"
#include "train/find_checkpoint.h"
#include "train/parameter_count.h"

namespace sluice {

struct ParameterInfo {
  std::string name;
  std::vector<int64_t> dims;
  int64_t size = 0;
  bool trainable = true;
};

/// One array of the balancers' state, over all expert layers that keep one of this name.
struct BalanceState {
  std::string name;  // "loss_free_bias/bias"
  int64_t layers = 0;
  std::vector<int64_t> dims;  // in one layer
  double least = 0.0;
  double greatest = 0.0;
};

struct CheckpointInspection {
  std::filesystem::path path;
  int64_t bytes = 0;
  CheckpointMeta meta;
  std::optional<int64_t> total_steps;  // nullopt for a run counted in epochs
  double seconds = 0.0;                // of training
  int64_t skipped = 0;                 // updates
  std::optional<double> best_eval_loss;
  int64_t best_eval_step = -1;

  std::string pattern;  // as the recipe spells it
  int64_t hidden_size = 0;
  int64_t vocab_size = 0;
  ParameterCount parameters;
  std::vector<ParameterInfo> table;

  std::vector<std::string> balance;  // types
  std::vector<BalanceState> balance_state;
  std::vector<int64_t> experts;    // of each expert layer
  std::vector<LoadHistory> loads;  // of each expert layer, over the run
  /// Names of the alarms that are on; nullopt for a file that does not know.
  std::optional<std::vector<std::string>> alarms;
};

/// A checkpoint file of a run, whole or not.
struct CheckpointFile {
  std::filesystem::path path;
  int64_t step = 0;
  int64_t bytes = 0;
  std::optional<double> eval_loss;
  std::string problem;  // one sentence; empty for a whole file
};

struct LastStep {
  int64_t step = 0;
  std::vector<std::vector<int64_t>> counts;  // per expert layer [E], of the global batch
};

/// An alarm that a run reported.
struct ReportedAlarm {
  int64_t step = 0;
  std::string name;
  std::optional<int64_t> layer;
  std::string advice;
};

struct RunInspection {
  std::filesystem::path folder;
  std::vector<CheckpointFile> files;  // by step
  std::optional<LastStep> last_step;  // nullopt without metrics.jsonl, or without experts
  std::vector<ReportedAlarm> alarms;  // of routing.jsonl, by step
};

struct Inspection {
  std::optional<RunInspection> run;                // for a folder
  std::optional<CheckpointInspection> checkpoint;  // nullopt for a run without a whole one
};

/// Looks at a checkpoint file, or at a run folder and its newest or best whole checkpoint. Every
/// checkpoint of a run is verified. Throws ConfigError when there is no such path, and when a
/// folder is no run's; CheckpointError for a file that is not whole.
[[nodiscard]] Inspection inspect(const std::filesystem::path& path, CheckpointChoice choice);

}  // namespace sluice
