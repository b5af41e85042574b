#pragma once
// Metrics: what a run reports, each declared once with its name, unit and reduction, and the
// records that carry them.
//
//   MetricAccumulator step;
//   for (each micro-batch) step.add(metrics::train_loss, loss_sum, valid_tokens);  // weighted mean
//   step.add(metrics::load_max_violation, max_vio, 1.0, "3");   // named load/max_violation/3
//   Record record{.step = 120, .tokens = tokens, .seconds = seconds};
//   step.reduce_into(record);
//   log.record(record);

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

/// How values of one step become one number.
enum class Reduction : uint8_t { mean, sum, max, last };

struct Metric {
  std::string_view name;  // stable: "train/loss"
  std::string_view unit;
  Reduction reduction;
  std::string_view what;  // one line of documentation
};

namespace metrics {
#define SLUICE_METRIC(identifier, name, unit, reduction, what) \
  inline constexpr Metric identifier{name, unit, Reduction::reduction, what};
#include "train/metrics/metrics.def"
#undef SLUICE_METRIC
}  // namespace metrics

/// Every metric of metrics.def, in its order.
[[nodiscard]] std::span<const Metric> all_metrics();

/// Counts in buckets; bucket i ends at limits[i] (excluded) and begins where the one before ends.
struct Histogram {
  std::string name;
  double begin = 0.0;  // where the first bucket begins
  std::vector<double> limits;
  std::vector<double> counts;

  /// One bucket of width 1 per entry: the load of each expert.
  [[nodiscard]] static Histogram of_counts(std::string name, std::span<const int64_t> counts);
};

/// What sinks receive.
struct Record {
  struct Value {
    std::string name;
    double value;
  };
  int64_t step = 0;           // optimizer steps done
  int64_t tokens = 0;         // training tokens consumed
  double seconds = 0.0;       // of training, over all processes of the run
  std::vector<Value> values;  // in the order in which they are shown
  std::vector<Histogram> histograms;

  void add(const Metric& metric, double value) {
    values.push_back({std::string(metric.name), value});
  }
  void add(std::string name, double value) { values.push_back({std::move(name), value}); }
  /// Null when the record has no such value.
  [[nodiscard]] const double* find(std::string_view name) const;
};

/// Reduces the values of one step, in the order in which they were added: sums are in double and do
/// not depend on threads.
class MetricAccumulator {
 public:
  /// For a mean, `value` counts `weight` times (a mean over a micro-batch with its tokens);
  /// otherwise weight is ignored. A `part` names a member of a family: `load/max_violation/3`.
  void add(const Metric& metric, double value, double weight = 1.0, std::string_view part = {});
  /// Appends the reduced values in the order of first addition, and forgets them. A mean of no
  /// weight is left out.
  void reduce_into(Record& record);

 private:
  struct Entry {
    std::string name;
    Reduction reduction;
    double value;
    double weight;
  };
  std::vector<Entry> entries_;
};

}  // namespace sluice
