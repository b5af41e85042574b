#include "train/run_log.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "autograd/support/parallel.h"
#include "train/format.h"
#include "train/transforms/transform.h"

namespace sluice {
namespace {

constexpr int64_t kLoadRecords = 200;
constexpr int64_t kExpertsRecords = 50;
constexpr int64_t kProbeRecords = 200;
constexpr int64_t kCoactivationRecords = 10;
/// A layer's co-activation has the square of this many numbers at most.
constexpr int64_t kCoactivationExperts = 128;

/// Steps between `records` records of a run.
int64_t steps_between(int64_t total_steps, int64_t records) {
  return std::max<int64_t>(1, ceil_div(total_steps, records));
}

/// The same, as a multiple of the steps between metric records, so that both meet.
Duration experts_period(const LogConfig& config, int64_t total_steps) {
  if (config.experts) return *config.experts;
  const int64_t steps = steps_between(total_steps, kExpertsRecords);
  const bool in_steps = config.every.unit == DurationUnit::steps && config.every.count >= 1.0;
  const int64_t every = in_steps ? static_cast<int64_t>(config.every.count) : 1;
  return {static_cast<double>(ceil_div(steps, every) * every), DurationUnit::steps};
}

/// Whether `step` is the first evaluation in its part of a run that is cut in `parts`, or the last.
bool begins_part(int64_t step, int64_t earlier, int64_t total_steps, int64_t parts) {
  if (earlier < 0 || step >= total_steps) return true;
  const int64_t length = steps_between(total_steps, parts);
  return step / length > earlier / length;
}

ProbeRecord probe_record(const Evaluation& evaluation, int64_t step, bool with_coactivation) {
  ProbeRecord record{
      .step = step, .tokens = evaluation.loss.tokens, .top_k = evaluation.loads.front().top_k};
  for (const LayerLoad& load : evaluation.loads) record.chosen.push_back(load.counts);
  if (with_coactivation) {
    record.coactivation.emplace();
    for (const LayerProbe& probe : evaluation.probes) {
      const auto counts = probe.together.counts();
      const bool fits = probe.together.experts() <= kCoactivationExperts;
      record.coactivation->emplace_back(counts.begin(), fits ? counts.end() : counts.begin());
    }
  }
  for (size_t i = 0; i < evaluation.domains.size(); ++i) {
    const DomainLoss& domain = evaluation.domains[i];
    ProbeRecord::Domain& of = record.domains.emplace_back();
    of.name = domain.domain;
    of.tokens = domain.loss.tokens;
    for (const LayerProbe& probe : evaluation.probes) of.chosen.push_back(probe.chosen[i]);
  }
  return record;
}

/// "step 200: prune reap: 1,234,567 parameters before, ..."
std::string pruning_sentence(int64_t step, const TransformReceipt& receipt) {
  std::string sentence = fmt::format(
      "step {}: {}: {} parameters before, {} after, active {} before, {} after", step,
      receipt.method, with_commas(receipt.before.total), with_commas(receipt.after.total),
      with_commas(receipt.before.active), with_commas(receipt.after.active));
  if (receipt.parity) {
    sentence += fmt::format("; held-out loss {:.4f} before, {:.4f} after",
                            receipt.parity->loss_before, receipt.parity->loss_after);
  }
  for (const std::string& note : receipt.notes) sentence += "; " + note;
  return sentence;
}

ExpertsRecord experts_record(const StepResult& result, int64_t step) {
  ExpertsRecord record{.step = step};
  for (const ExpertUpdates& stack : result.experts) {
    record.gradient_share.push_back(stack.gradient_share);
    record.update_ratio.push_back(stack.update_ratio);
  }
  return record;
}

}  // namespace

bool is_due(const Duration& every, const Progress& before, const Progress& after) {
  if (every.count <= 0.0) return false;
  return std::floor(every.elapsed(after) / every.count) >
         std::floor(every.elapsed(before) / every.count);
}

RunLog::RunLog(const LogConfig& config, const SinkContext& context, int64_t total_steps)
    : config_(config),
      sinks_(config.sinks, context),
      alarms_(config.alarms),
      total_steps_(total_steps),
      loads_every_(config.loads.value_or(Duration{
          static_cast<double>(steps_between(total_steps, kLoadRecords)), DurationUnit::steps})),
      experts_every_(experts_period(config, total_steps)) {}

bool RunLog::records_step(const Progress& before, const Progress& after) const {
  return is_due(config_.every, before, after) || after.step >= total_steps_;
}

StepWatch RunLog::watch_for(const Run& run) const {
  if (run.routing().layers() == 0) return {};
  const Progress before = run.progress();
  const Progress after = run.next_progress();
  return {.routers = records_step(before, after), .experts = is_due(experts_every_, before, after)};
}

void RunLog::add_step(Run& run, const StepResult& result, const Progress& before,
                      FunctionRef<SpeedSample()> measure) {
  RunState& state = run.state();
  const Progress after = run.progress();
  if (records_step(before, after) || (!result.applied && !result.empty)) {
    Record step = make_step_record(state, result, run.routing(), measure());
    record(step, run);
  }
  if (run.routing().layers() == 0) return;
  const bool is_last = after.step >= total_steps_ && loads_every_.count > 0.0;
  if (is_due(loads_every_, before, after) || is_last) record_loads(state);
  if (!result.experts.empty()) sinks_.routing(experts_record(result, state.step));
}

void RunLog::end_loads(Run& run) {
  RunState& state = run.state();
  const auto is_recorded = [](const std::vector<int64_t>& layer) {
    return std::ranges::all_of(layer, [](int64_t count) { return count == 0; });
  };
  if (!std::ranges::all_of(state.unrecorded_load, is_recorded)) record_loads(state);
}

void RunLog::record_loads(RunState& state) {
  sinks_.routing(
      LoadRecord{.step = state.step, .tokens = state.tokens, .load = state.unrecorded_load});
  state.forget_unrecorded_load();
}

void RunLog::add_pruning(Run& run, const TransformReceipt& receipt) {
  const RunState& state = run.state();
  const std::vector<int64_t> experts = run.model().experts_per_layer();
  Record record{.step = state.step, .tokens = state.tokens, .seconds = state.seconds};
  const auto add = [&](const Metric& metric, auto value) {
    record.add(metric, static_cast<double>(value));
  };
  add(metrics::pruning_experts, std::accumulate(experts.begin(), experts.end(), int64_t{0}));
  add(metrics::pruning_parameters_before, receipt.before.total);
  add(metrics::pruning_parameters, receipt.after.total);
  add(metrics::pruning_active_before, receipt.before.active);
  add(metrics::pruning_active, receipt.after.active);
  if (receipt.parity) {
    add(metrics::pruning_loss_before, receipt.parity->loss_before);
    add(metrics::pruning_loss, receipt.parity->loss_after);
    add(metrics::pruning_divergence, receipt.parity->mean_divergence);
  }
  sinks_.record(record);
  sinks_.event(pruning_sentence(state.step, receipt));
}

void RunLog::add_evaluation(Run& run, const Evaluation& evaluation, int64_t earlier) {
  const RunState& state = run.state();
  Record values{.step = state.step, .tokens = state.tokens, .seconds = state.seconds};
  evaluation.add_to(values);
  record(values, run);
  const auto is_routed = [](const LayerLoad& load) {
    return load_statistics(load).effective_experts > 0.0;
  };
  if (std::ranges::none_of(evaluation.loads, is_routed)) return;
  if (!begins_part(state.step, earlier, total_steps_, kProbeRecords)) return;
  sinks_.routing(
      probe_record(evaluation, state.step,
                   begins_part(state.step, earlier, total_steps_, kCoactivationRecords)));
}

void RunLog::record(Record& record, Run& run) {
  const std::vector<AlarmEvent> events = alarms_.judge(record, run.state().alarms);
  sinks_.record(record);
  for (const AlarmEvent& event : events) {
    sinks_.event(event.sentence);
    if (run.routing().layers() > 0) sinks_.routing(event.record);
  }
}

}  // namespace sluice
