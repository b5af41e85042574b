#include "balance/load.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <string>

#include "autograd/support/error.h"

namespace sluice {
namespace {

/// An expert with less than this share of the mean load is starved.
constexpr double kStarvedShare = 0.1;

/// Every figure of LoadStatistics, for loops over them.
constexpr double LoadStatistics::*kFigures[] = {
    &LoadStatistics::max_vio,           &LoadStatistics::min_vio,
    &LoadStatistics::avg_vio,           &LoadStatistics::coefficient_of_variation,
    &LoadStatistics::entropy,           &LoadStatistics::effective_experts,
    &LoadStatistics::largest_share,     &LoadStatistics::idle_experts,
    &LoadStatistics::starved_experts,   &LoadStatistics::drop_rate,
    &LoadStatistics::experts_per_token, &LoadStatistics::spread,
};
static_assert(sizeof(LoadStatistics) == std::size(kFigures) * sizeof(double));

/// See LoadStatistics::spread.
double spread(double effective, double per_token, double experts) {
  constexpr double kFewestToChooseFrom = 0.5;
  const double others = experts - per_token;
  if (per_token == 0.0 || others < kFewestToChooseFrom) return 1.0;
  return std::clamp((effective - per_token) / others, 0.0, 1.0);
}

}  // namespace

LoadStatistics load_statistics(const LayerLoad& load) {
  LoadStatistics result;
  const int64_t assignments = std::accumulate(load.counts.begin(), load.counts.end(), int64_t{0});
  if (assignments == 0) return result;
  const auto total = static_cast<double>(assignments);
  const auto experts = static_cast<double>(load.counts.size());
  const double mean = total / experts;

  double absolute = 0.0;
  double squared = 0.0;
  double entropy = 0.0;  // in nats
  for (const int64_t count : load.counts) {
    const auto c = static_cast<double>(count);
    absolute += std::abs(c - mean);
    squared += (c - mean) * (c - mean);
    if (count > 0) entropy -= c / total * std::log(c / total);
    result.idle_experts += count == 0 ? 1.0 : 0.0;
    result.starved_experts += c < kStarvedShare * mean ? 1.0 : 0.0;
  }
  const auto [least, greatest] = std::minmax_element(load.counts.begin(), load.counts.end());
  result.max_vio = (static_cast<double>(*greatest) - mean) / mean;
  result.min_vio = (mean - static_cast<double>(*least)) / mean;
  result.avg_vio = absolute / experts / mean;
  result.coefficient_of_variation = std::sqrt(squared / experts) / mean;
  result.entropy = experts > 1.0 ? entropy / std::log(experts) : 1.0;
  result.effective_experts = std::exp(entropy);
  result.largest_share = static_cast<double>(*greatest) / total;
  result.drop_rate = static_cast<double>(load.dropped) / total;
  if (load.tokens > 0) result.experts_per_token = total / static_cast<double>(load.tokens);
  result.spread = spread(result.effective_experts, result.experts_per_token, experts);
  return result;
}

LoadStatistics mean_of(std::span<const LoadStatistics> layers) {
  LoadStatistics mean;
  if (layers.empty()) return mean;
  for (double LoadStatistics::*figure : kFigures) {
    for (const LoadStatistics& layer : layers) mean.*figure += layer.*figure;
    mean.*figure /= static_cast<double>(layers.size());
  }
  return mean;
}

LoadTracker::LoadTracker(std::span<const int64_t> experts_per_layer, int64_t window)
    : window_(window) {
  SLUICE_INTERNAL_CHECK(window >= 1, "a window of {} steps", window);
  for (const int64_t experts : experts_per_layer) {
    layers_.emplace_back().steps_idle.assign(static_cast<size_t>(experts), 0);
  }
}

void LoadTracker::add(std::span<const LayerLoad> loads) {
  SLUICE_INTERNAL_CHECK(loads.size() == layers_.size(), "loads of {} layers, expected {}",
                        loads.size(), layers_.size());
  for (size_t i = 0; i < loads.size(); ++i) {
    const std::vector<int64_t>& counts = loads[i].counts;
    Layer& layer = layers_[i];
    if (std::all_of(counts.begin(), counts.end(), [](int64_t count) { return count == 0; })) {
      continue;
    }
    SLUICE_INTERNAL_CHECK(counts.size() == layer.steps_idle.size(),
                          "expert layer {}: load of {} experts, expected {}", i, counts.size(),
                          layer.steps_idle.size());
    const double max_vio = load_statistics(loads[i]).max_vio;
    ++layer.steps;
    layer.sum_max_vio += max_vio;
    layer.sup_max_vio = std::max(layer.sup_max_vio, max_vio);
    for (size_t e = 0; e < counts.size(); ++e) {
      layer.steps_idle[e] = counts[e] > 0 ? 0 : layer.steps_idle[e] + 1;
    }
  }
}

LoadHistory LoadTracker::layer(int64_t index) const {
  const Layer& layer = layers_.at(static_cast<size_t>(index));
  if (layer.steps == 0) return {};
  const auto dead = std::count_if(layer.steps_idle.begin(), layer.steps_idle.end(),
                                  [&](int64_t steps) { return steps >= window_; });
  return {.avg_max_vio = layer.sum_max_vio / static_cast<double>(layer.steps),
          .sup_max_vio = layer.sup_max_vio,
          .dead_experts = static_cast<double>(dead)};
}

LoadHistory LoadTracker::model() const {
  LoadHistory mean;
  if (layers_.empty()) return mean;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const LoadHistory of_layer = layer(static_cast<int64_t>(i));
    mean.avg_max_vio += of_layer.avg_max_vio;
    mean.sup_max_vio += of_layer.sup_max_vio;
    mean.dead_experts += of_layer.dead_experts;
  }
  const auto count = static_cast<double>(layers_.size());
  return {mean.avg_max_vio / count, mean.sup_max_vio / count, mean.dead_experts / count};
}

void LoadTracker::visit_state(StateVisitor& visitor) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    const StateScope scope(visitor, std::to_string(i));
    Layer& layer = layers_[i];
    const auto experts = static_cast<int64_t>(layer.steps_idle.size());
    visitor.integer("steps", layer.steps);
    visitor.number("sum_max_vio", layer.sum_max_vio);
    visitor.number("sup_max_vio", layer.sup_max_vio);
    visitor.array<int64_t>("steps_idle", layer.steps_idle, std::span(&experts, 1));
  }
}

}  // namespace sluice
