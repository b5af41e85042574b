#include "train/step_metrics.h"

#include <algorithm>
#include <numeric>
#include <string>

namespace sluice {
namespace {

void add_losses(const RunState& state, const StepResult& result, bool has_experts, Record& record) {
  record.add(metrics::train_loss, result.loss);
  if (const auto deviation = state.losses.deviation(result.loss)) {
    record.add(metrics::train_loss_deviation, *deviation);
  }
  const auto of_kind = [&](LossKind kind) { return result.auxiliary[static_cast<size_t>(kind)]; };
  if (has_experts) {
    record.add(metrics::train_balance_loss, of_kind(LossKind::balance));
    record.add(metrics::train_z_loss, of_kind(LossKind::router_z));
  }
  // Models without such parts have exactly 0.
  if (const double loss = of_kind(LossKind::depth); loss != 0.0) {
    record.add(metrics::train_depth_loss, loss);
  }
  if (const double loss = of_kind(LossKind::multi_token); loss != 0.0) {
    record.add(metrics::train_multi_token_loss, loss);
  }
  if (result.consistency) record.add(metrics::train_consistency_loss, *result.consistency);
  if (result.distillation) record.add(metrics::train_distillation_loss, *result.distillation);
  record.add(metrics::train_grad_norm, result.grad_norm);
  record.add(metrics::train_lr, result.learning_rate);
}

/// Values of expert layers, for the model and for each layer.
class LayerMetrics {
 public:
  void add(const Metric& metric, double value, size_t layer) {
    model_.add(metric, value);
    layers_.add(metric, value, 1.0, std::to_string(layer));
  }
  /// One of a family: family/name, and family/name/layer.
  void add(const Metric& family, const std::string& name, double value, size_t layer) {
    model_.add(family, value, 1.0, name);
    layers_.add(family, value, 1.0, fmt::format("{}/{}", name, layer));
  }
  void reduce_into(Record& record) {
    model_.reduce_into(record);
    layers_.reduce_into(record);
  }

 private:
  MetricAccumulator model_;
  MetricAccumulator layers_;
};

void add_load(const LoadStatistics& load, const LoadHistory& history, size_t layer,
              LayerMetrics& to) {
  to.add(metrics::load_max_violation, load.max_vio, layer);
  to.add(metrics::load_average_max_violation, history.avg_max_vio, layer);
  to.add(metrics::load_supreme_max_violation, history.sup_max_vio, layer);
  to.add(metrics::load_min_violation, load.min_vio, layer);
  to.add(metrics::load_average_violation, load.avg_vio, layer);
  to.add(metrics::load_dead_experts, history.dead_experts, layer);
  to.add(metrics::load_starved_experts, load.starved_experts, layer);
  to.add(metrics::load_largest_share, load.largest_share, layer);
  to.add(metrics::load_dropped_fraction, load.drop_rate, layer);
  to.add(metrics::load_entropy, load.entropy, layer);
  to.add(metrics::load_effective_experts, load.effective_experts, layer);
  to.add(metrics::load_spread, load.spread, layer);
  to.add(metrics::load_experts_per_token, load.experts_per_token, layer);
  to.add(metrics::load_variation, load.coefficient_of_variation, layer);
}

void add_router(const RouterStatistics& router, size_t layer, LayerMetrics& to) {
  to.add(metrics::router_entropy, router.entropy, layer);
  to.add(metrics::router_logit_norm, router.logit_norm, layer);
  to.add(metrics::router_top_margin, router.top_margin, layer);
  to.add(metrics::router_chosen_probability, router.chosen_probability, layer);
}

void add_experts(const ExpertUpdates& experts, size_t stack, LayerMetrics& to) {
  const auto& ratio = experts.update_ratio;
  const double sum = std::accumulate(ratio.begin(), ratio.end(), 0.0);
  to.add(metrics::experts_gradient_share, std::ranges::max(experts.gradient_share), stack);
  to.add(metrics::experts_update_ratio, sum / static_cast<double>(ratio.size()), stack);
  to.add(metrics::experts_largest_update_ratio, std::ranges::max(ratio), stack);
}

void add_routing(const RunState& state, const StepResult& result, const RoutingSession& routing,
                 Record& record) {
  LayerMetrics metrics_of_layers;
  const std::vector<LayerLoad>& loads = routing.loads();
  for (size_t layer = 0; layer < loads.size(); ++layer) {
    const auto index = static_cast<int64_t>(layer);
    // Zeros would pass for figures: for a collapse, to an alarm.
    const LoadStatistics load = load_statistics(loads[layer]);
    if (load.effective_experts > 0.0) {
      add_load(load, state.loads.layer(index), layer, metrics_of_layers);
      if (!result.routers.empty()) add_router(result.routers[layer], layer, metrics_of_layers);
      record.histograms.push_back(
          Histogram::of_counts(fmt::format("load/experts/{}", layer), loads[layer].counts));
    }
    std::vector<std::pair<std::string, double>> own;
    routing.balancer(index).metrics(own);
    for (const auto& [name, value] : own) {
      metrics_of_layers.add(metrics::balance_state, name, value, layer);
    }
  }
  for (size_t stack = 0; stack < result.experts.size(); ++stack) {
    add_experts(result.experts[stack], stack, metrics_of_layers);
  }
  metrics_of_layers.reduce_into(record);
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
                        const RoutingSession& routing, const SpeedSample& speed) {
  Record record{.step = state.step, .tokens = state.tokens, .seconds = state.seconds};
  if (!result.empty) add_losses(state, result, routing.layers() > 0, record);
  record.add(metrics::train_skipped_steps, static_cast<double>(state.skipped));
  if (!result.empty) add_routing(state, result, routing, record);
  add_speed(speed, record);
  return record;
}

}  // namespace sluice
