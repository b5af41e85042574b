#pragma once
// The training loop in a run folder: resume, steps, evaluation, metrics, checkpoints, stopping.
//
//   Trainer trainer(recipe, {.folder = "runs/quickstart"}, reporter);
//   const RunSummary summary = trainer.run();

#include <chrono>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "autograd/core/communicator.h"
#include "train/checkpoint/store.h"
#include "train/profile/profile.h"
#include "train/reporter.h"
#include "train/run.h"
#include "train/run_folder.h"
#include "train/run_log.h"
#include "train/signals.h"
#include "train/trace/run_traces.h"

namespace sluice {

struct TrainerOptions {
  std::filesystem::path folder;
  std::string resume = "auto";  // or "never", or a checkpoint file (resume.h)
  ConsoleTarget console;        // of the console sink; without a stream it stays silent
  bool profile = false;         // time every kernel call, and write profile.json at the end
};

class Trainer {
 public:
  Trainer(Recipe recipe, TrainerOptions options, Reporter& reporter);

  /// Trains to the end of the recipe, to a signal (SIGINT, SIGTERM: the step is finished and the
  /// state saved), or to train.max_time. Once per object. Throws NumericError when
  /// train.max_nonfinite updates in a row were skipped, the last good checkpoint being intact;
  /// ConfigError, DataError, CheckpointError.
  [[nodiscard]] RunSummary run();
  /// What run() does before its first step, and a checkpoint of it: a later run() of the folder goes on
  /// from there. Instead of run().
  [[nodiscard]] RunSummary start();

 private:
  using Clock = std::chrono::steady_clock;

  [[nodiscard]] std::unique_ptr<Run> make_run();
  [[nodiscard]] RunLog make_log() const;
  void begin();
  void report_start();
  [[nodiscard]] std::optional<std::filesystem::path> write_report();
  [[nodiscard]] std::optional<ProfileSummary> write_profile();
  [[nodiscard]] StopReason train(const SignalWatch& signals);
  void advance();
  [[nodiscard]] SpeedSample measure_speed();
  void report_skipped(const StepResult& result);
  void report_warnings();
  void evaluate();
  void prune();
  void reserve_checkpoint();
  void save();
  [[nodiscard]] RunSummary summarise(StopReason reason);
  void update_seconds();

  Recipe recipe_;
  TrainerOptions options_;
  Reporter& reporter_;
  SingleRank communicator_;
  RunFolder folder_;
  CheckpointStore store_;
  // Set while run_ is made: what it went on from, and the step of the newest checkpoint in store_.
  std::optional<std::filesystem::path> resumed_from_;
  int64_t saved_step_ = -1;
  std::unique_ptr<Run> run_;
  RunLog log_;
  RunTraces traces_;
  std::unique_ptr<Profile> profile_;  // options_.profile

  double gemm_peak_ = 0.0;
  Clock::time_point start_;
  double earlier_seconds_ = 0.0;  // of training in earlier processes
  SpeedSample since_record_;
  double step_seconds_ = 0.0;  // of this process
  int64_t step_tokens_ = 0;    // of this process
  int signal_ = 0;
  std::optional<Evaluation> last_evaluation_;
  int64_t evaluated_step_ = -1;  // of last_evaluation_
};

}  // namespace sluice
