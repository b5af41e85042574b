#pragma once
// Records the routes of a run's steps and evaluations as train.trace asks for.
//
//   RunTraces traces(folder.traces(), recipe.train.trace);
//   traces.truncate_after(run.state().step);
//   StepResult result = traces.step(run, [&] { return run.step(); });

#include <filesystem>
#include <memory>
#include <optional>

#include "autograd/support/function_ref.h"
#include "train/run.h"
#include "train/trace/trace_config.h"
#include "train/trace/trace_writer.h"

namespace sluice {

class RunTraces {
 public:
  /// `config` is a TraceConfig, or null: nothing is recorded.
  RunTraces(std::filesystem::path folder, const std::shared_ptr<Configurable>& config);

  /// Removes the traces of steps behind the one that the run goes on from.
  void truncate_after(int64_t step) const { folder_.truncate_after(step); }
  /// Does the step, and records it when it is due. A step that computed nothing leaves no file.
  [[nodiscard]] StepResult step(Run& run, FunctionRef<StepResult()> step) const;
  /// Evaluates, and records it where evaluations are recorded.
  [[nodiscard]] std::optional<Evaluation> evaluate(
      Run& run, FunctionRef<std::optional<Evaluation>()> evaluate) const;

 private:
  [[nodiscard]] bool wants_step(const Run& run) const;
  [[nodiscard]] TraceWriter begin(const Run& run, TraceKind kind, int64_t step) const;

  TraceFolder folder_;
  std::shared_ptr<const TraceConfig> config_;
};

}  // namespace sluice
