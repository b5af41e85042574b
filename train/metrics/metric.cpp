#include "train/metrics/metric.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "autograd/support/registry.h"

namespace sluice {
namespace {

constexpr auto kMetrics = std::to_array<Metric>({
#define SLUICE_METRIC(identifier, name, unit, reduction, what) metrics::identifier,
#include "train/metrics/metrics.def"
#undef SLUICE_METRIC
});

constexpr auto kNames = [] {
  std::array<std::string_view, kMetrics.size()> names;
  for (size_t i = 0; i < names.size(); ++i) names[i] = kMetrics[i].name;
  return names;
}();
static_assert(all_distinct(kNames), "two metrics of one name");

}  // namespace

std::span<const Metric> all_metrics() { return kMetrics; }

Histogram Histogram::of_counts(std::string name, std::span<const int64_t> counts) {
  Histogram histogram{std::move(name), 0.0, {}, {counts.begin(), counts.end()}};
  for (size_t i = 0; i < counts.size(); ++i) {
    histogram.limits.push_back(static_cast<double>(i + 1));
  }
  return histogram;
}

const double* Record::find(std::string_view name) const {
  const auto found = std::ranges::find(values, name, &Value::name);
  return found == values.end() ? nullptr : &found->value;
}

void MetricAccumulator::add(const Metric& metric, double value, double weight,
                            std::string_view part) {
  std::string name =
      part.empty() ? std::string(metric.name) : fmt::format("{}/{}", metric.name, part);
  auto entry = std::ranges::find(entries_, name, &Entry::name);
  if (entry == entries_.end()) {
    entries_.push_back({std::move(name), metric.reduction, 0.0, 0.0});
    entry = std::prev(entries_.end());
    if (metric.reduction == Reduction::max) entry->value = value;
  }
  switch (metric.reduction) {
    case Reduction::mean:
      entry->value += value * weight;
      entry->weight += weight;
      break;
    case Reduction::sum:
      entry->value += value;
      break;
    case Reduction::max:
      entry->value = std::max(entry->value, value);
      break;
    case Reduction::last:
      entry->value = value;
      break;
  }
}

void MetricAccumulator::reduce_into(Record& record) {
  for (Entry& entry : std::exchange(entries_, {})) {
    if (entry.reduction == Reduction::mean) {
      if (entry.weight == 0.0) continue;
      entry.value /= entry.weight;
    }
    record.add(std::move(entry.name), entry.value);
  }
}

}  // namespace sluice
