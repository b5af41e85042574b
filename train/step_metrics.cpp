#include "train/step_metrics.h"

#include <string>

namespace sluice {
namespace {

void add_losses(const RunState& state, const StepResult& result, bool has_experts, Record& record) {
  record.add(metrics::train_loss, result.loss);
  if (const auto deviation = state.losses.deviation(result.loss)) {
    record.add(metrics::train_loss_deviation, *deviation);
  }
  if (has_experts) {
    record.add(metrics::train_balance_loss,
               result.auxiliary[static_cast<size_t>(LossKind::balance)]);
    record.add(metrics::train_z_loss, result.auxiliary[static_cast<size_t>(LossKind::router_z)]);
  }
  if (result.consistency) record.add(metrics::train_consistency_loss, *result.consistency);
  record.add(metrics::train_grad_norm, result.grad_norm);
  record.add(metrics::train_lr, result.learning_rate);
  record.add(metrics::train_skipped_steps, static_cast<double>(state.skipped));
}

void add_loads(const RunState& state, const std::vector<LayerLoad>& loads, Record& record) {
  if (loads.empty()) return;
  MetricAccumulator model;
  MetricAccumulator layers;
  for (size_t layer = 0; layer < loads.size(); ++layer) {
    const LoadStatistics load = load_statistics(loads[layer]);
    const LoadHistory history = state.loads.layer(static_cast<int64_t>(layer));
    const std::string part = std::to_string(layer);
    const auto add = [&](const Metric& metric, double value) {
      model.add(metric, value);
      layers.add(metric, value, 1.0, part);
    };
    add(metrics::load_max_violation, load.max_vio);
    add(metrics::load_average_max_violation, history.avg_max_vio);
    add(metrics::load_supreme_max_violation, history.sup_max_vio);
    add(metrics::load_dead_experts, history.dead_experts);
    add(metrics::load_dropped_fraction, load.drop_rate);
    add(metrics::load_entropy, load.entropy);
    add(metrics::load_variation, load.coefficient_of_variation);
    record.histograms.push_back(Histogram::of_counts("load/experts/" + part, loads[layer].counts));
  }
  model.reduce_into(record);
  layers.reduce_into(record);
}

void add_speed(const SpeedSample& speed, Record& record) {
  if (speed.seconds > 0.0) {
    record.add(metrics::speed_tokens_per_second, static_cast<double>(speed.tokens) / speed.seconds);
    if (speed.gemm_peak > 0.0) {
      record.add(metrics::speed_peak_fraction,
                 speed.work.useful_flops() / speed.seconds / speed.gemm_peak);
    }
    record.add(metrics::speed_router_fraction,
               speed.work.phase_total(Phase::routing).seconds / speed.seconds);
    for (int i = 0; i < kPhases; ++i) {
      const auto phase = static_cast<Phase>(i);
      record.add(fmt::format("{}/{}", metrics::speed_phase_fraction.name, name_of(phase)),
                 speed.work.phase_total(phase).seconds / speed.seconds);
    }
  }
  record.add(metrics::memory_peak_bytes, static_cast<double>(speed.peak_memory_bytes));
}

}  // namespace

Record make_step_record(const RunState& state, const StepResult& result,
                        const std::vector<LayerLoad>& loads, const SpeedSample& speed) {
  Record record{.step = state.step, .tokens = state.tokens, .seconds = state.seconds};
  add_losses(state, result, !loads.empty(), record);
  add_loads(state, loads, record);
  add_speed(speed, record);
  return record;
}

}  // namespace sluice
