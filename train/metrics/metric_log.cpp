#include "train/metrics/metric_log.h"

#include <array>

#include "autograd/support/error.h"

namespace sluice {

#define SLUICE_SINK(name, doc) std::unique_ptr<Sink> make_##name##_sink(const SinkContext& context);
#include "train/metrics/sinks.def"
#undef SLUICE_SINK

namespace {

#define SLUICE_SINK(name, doc) constexpr SinkType k_sink_##name{#name, doc, make_##name##_sink};
#include "train/metrics/sinks.def"
#undef SLUICE_SINK

constexpr auto kSinks = std::to_array<const SinkType*>({
#define SLUICE_SINK(name, doc) &k_sink_##name,
#include "train/metrics/sinks.def"
#undef SLUICE_SINK
});

constexpr auto kSinkNames = std::to_array<std::string_view>({
#define SLUICE_SINK(name, doc) #name,
#include "train/metrics/sinks.def"
#undef SLUICE_SINK
});
static_assert(all_distinct(kSinkNames), "two sinks of one name");

}  // namespace

const Registry<SinkType>& sinks() {
  static constexpr Registry<SinkType> registry("sink", kSinks);
  return registry;
}

void LogConfig::fields(FieldVisitor& visitor) {
  visitor.duration({"every", "time between records"}, every);
  visitor.texts({"sinks", "where records go: console, jsonl, routing, tensorboard, hdf5"}, sinks);
  visitor.optional_duration(
      {"loads", "time between load records of routing.jsonl; auto: 200 in the run; 0 steps: none"},
      loads, "auto");
  visitor.optional_duration(
      {"experts",
       "time between looks at each expert's gradient and update; auto: 50 in the run; 0 steps: "
       "none"},
      experts, "auto");
  visitor.integer({"dead_after", "steps without a token after which an expert counts as dead"},
                  dead_after, {.min = 1});
  visitor.object({"alarms", "thresholds of alarms; off: never"}, alarms);
}

std::string LogConfig::check() const {
  for (const std::string& name : sinks) {
    try {
      (void)sluice::sinks().at(name);
    } catch (const ConfigError& error) {
      return fmt::format("sinks: {}", error.what());
    }
  }
  return {};
}

MetricLog::MetricLog(const std::vector<std::string>& names, const SinkContext& context) {
  for (const std::string& name : names) sinks_.push_back(sinks().at(name).make(context));
}

void MetricLog::truncate_after(int64_t step) {
  for (const auto& sink : sinks_) sink->truncate_after(step);
}
void MetricLog::record(const Record& record) {
  for (const auto& sink : sinks_) sink->record(record);
}
void MetricLog::routing(const RoutingRecord& record) {
  for (const auto& sink : sinks_) sink->routing(record);
}
void MetricLog::event(std::string_view sentence) {
  for (const auto& sink : sinks_) sink->event(sentence);
}
void MetricLog::flush() {
  for (const auto& sink : sinks_) sink->flush();
}

}  // namespace sluice
