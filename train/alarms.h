#pragma once
// Alarms: what a person should be told about a run before its loss shows it.
//
//   Alarms alarms(recipe.log.alarms);
//   for (const AlarmEvent& event : alarms.judge(record, state.alarms)) log.event(event.sentence);
//
// An alarm watches one metric, in every layer that a record has it of, and is on while the worst of
// them is past the threshold; some have to stay there for a while first. It is a metric itself,
// alarm/<name>, 0 or 1.

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "autograd/core/state.h"
#include "autograd/support/fields.h"
#include "train/metrics/metric.h"
#include "train/metrics/routing_record.h"

namespace sluice {

struct AlarmType {
  std::string_view name;  // of alarm/<name>, and of the key in log.alarms
  const Metric* metric;
  bool fires_below;  // the threshold is the least allowed, not the most
  bool must_last;    // for log.alarms.patience steps
  double threshold;  // default
  std::string_view doc;
  std::string_view advice;  // one line
};
[[nodiscard]] std::span<const AlarmType> alarm_types();

/// `log.alarms` of a recipe.
struct AlarmsConfig final : Configurable {
  AlarmsConfig();
  std::vector<std::optional<double>> thresholds;  // as alarm_types(); nullopt: off
  int64_t patience = 50;                          // steps
  int64_t quiet = 1000;                           // steps
  void fields(FieldVisitor& v) override;
};

/// Where the alarms stand. Part of a checkpoint.
struct AlarmState {
  struct One {
    int64_t since = -1;  // step of the record that was the first of a row past the threshold
    int64_t on = 0;
    int64_t said = -1;  // step of the last sentence
  };
  AlarmState();
  std::vector<One> alarms;  // as alarm_types()
  void visit_state(StateVisitor& visitor);
};

struct AlarmEvent {
  AlarmRecord record;
  std::string sentence;  // for people
};

class Alarms {
 public:
  explicit Alarms(const AlarmsConfig& config) : config_(config) {}

  /// Holds every alarm against the record, if it has the alarm's metric, and adds alarm/<name> to
  /// it. Returns the alarms that went on, save those that were reported within `quiet` steps.
  [[nodiscard]] std::vector<AlarmEvent> judge(Record& record, AlarmState& state) const;

 private:
  AlarmsConfig config_;
};

}  // namespace sluice
