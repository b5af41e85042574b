#pragma once
// What a run writes about itself, and when: metrics, routing records and alarms, into the sinks of
// its recipe.
//
//   RunLog log(recipe.log, context, sizes);
//   const Progress before = run.progress();
//   const StepResult result = run.step(log.watch_for(run));
//   log.add_step(run, result, before, speed);
//
// routing.jsonl stays small in a long run: by default at most 200 loads and 50 looks at the experts
// (`auto`), and at most 200 probes, 10 of them with the co-activation of layers of up to 128 experts,
// however often the run evaluates.

#include <optional>
#include <string_view>

#include "autograd/support/function_ref.h"
#include "train/alarms.h"
#include "train/metrics/metric_log.h"
#include "train/run.h"
#include "train/step_metrics.h"

namespace sluice {

/// True when a period of `every` ends between `before` and `after`; never for a length of 0.
[[nodiscard]] bool is_due(const Duration& every, const Progress& before, const Progress& after);

class RunLog {
 public:
  /// Throws ConfigError for an unknown sink.
  RunLog(const LogConfig& config, const SinkContext& context, int64_t total_steps);

  /// What the next step should be watched for.
  [[nodiscard]] StepWatch watch_for(const Run& run) const;
  /// After a step that began at `before`. `measure` gives what was measured since the last record,
  /// and is called when there is a record.
  void add_step(Run& run, const StepResult& result, const Progress& before,
                FunctionRef<SpeedSample()> measure);
  /// Before the experts change: their loads since the last record.
  void end_loads(Run& run);
  /// After a stage of train.pruning: its numbers, and a sentence.
  void add_pruning(Run& run, const TransformReceipt& receipt);
  /// After an evaluation at the run's step; `earlier` is the step of the one before, -1 for none.
  void add_evaluation(Run& run, const Evaluation& evaluation, int64_t earlier);

  // As Sink.
  void truncate_after(int64_t step) { sinks_.truncate_after(step); }
  void event(std::string_view sentence) { sinks_.event(sentence); }
  void flush() { sinks_.flush(); }

 private:
  [[nodiscard]] bool records_step(const Progress& before, const Progress& after) const;
  void record(Record& record, Run& run);
  void record_loads(RunState& state);

  LogConfig config_;
  MetricLog sinks_;
  Alarms alarms_;
  int64_t total_steps_;
  Duration loads_every_;
  Duration experts_every_;
};

}  // namespace sluice
