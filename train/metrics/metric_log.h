#pragma once
// The metric log of a run: the sinks that its recipe names, as one.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"
#include "train/alarms.h"
#include "train/metrics/sink.h"

namespace sluice {

/// `log:` of a recipe.
struct LogConfig : Configurable {
  Duration every{10, DurationUnit::steps};
  std::vector<std::string> sinks{"console", "jsonl", "routing", "tensorboard"};
  std::optional<Duration> loads;    // "auto"
  std::optional<Duration> experts;  // "auto"
  /// A tenth of what papers take: runs here have hundreds of steps.
  int64_t dead_after = 100;
  AlarmsConfig alarms;
  void fields(FieldVisitor& visitor) override;
  [[nodiscard]] std::string check() const override;
};

/// Passes everything on to each sink in the order of the recipe; see Sink for the calls.
class MetricLog final : public Sink {
 public:
  /// Throws ConfigError for an unknown name.
  MetricLog(const std::vector<std::string>& names, const SinkContext& context);

  void truncate_after(int64_t step) override;
  void record(const Record& record) override;
  void routing(const RoutingRecord& record) override;
  void event(std::string_view sentence) override;
  void flush() override;

 private:
  std::vector<std::unique_ptr<Sink>> sinks_;
};

}  // namespace sluice
