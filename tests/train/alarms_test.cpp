#include "train/alarms.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "tests/support/set_fields.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

Record record_of(int64_t step, const Metric& metric, const std::vector<double>& layers) {
  Record record{.step = step};
  double sum = 0.0;
  for (const double value : layers) sum += value;
  record.add(metric, sum / static_cast<double>(layers.size()));
  for (size_t layer = 0; layer < layers.size(); ++layer) {
    record.add(fmt::format("{}/{}", metric.name, layer), layers[layer]);
  }
  return record;
}

/// The steps at which an alarm was reported, of records with these values of one layer.
std::vector<int64_t> reported(const AlarmsConfig& config, const Metric& metric,
                              const std::vector<std::pair<int64_t, double>>& values) {
  AlarmState state;
  std::vector<int64_t> steps;
  for (const auto& [step, value] : values) {
    Record record = record_of(step, metric, {value});
    for (const AlarmEvent& event : Alarms(config).judge(record, state)) {
      steps.push_back(event.record.step);
    }
  }
  return steps;
}

TEST(Alarms, NameTheWorstLayerTheThresholdAndWhatToDo) {
  AlarmState state;
  Record record = record_of(30, metrics::load_dead_experts, {0, 3, 1});
  const auto events = Alarms({}).judge(record, state);
  ASSERT_THAT(events, SizeIs(1));
  EXPECT_EQ(events[0].record.name, "dead_experts");
  EXPECT_EQ(events[0].record.layer, 1);
  EXPECT_EQ(events[0].record.value, 3.0);
  EXPECT_EQ(events[0].record.threshold, 0.0);
  EXPECT_THAT(events[0].sentence,
              HasSubstr("alarm dead_experts: step 30, expert layer 1: load/dead_experts is 3, more "
                        "than 0; raise"));
  EXPECT_EQ(*record.find("alarm/dead_experts"), 1.0);
}

TEST(Alarms, AreMetricsThatAreZeroWhileAllIsWell) {
  AlarmState state;
  Record record = record_of(30, metrics::load_dead_experts, {0, 0});
  EXPECT_THAT(Alarms({}).judge(record, state), IsEmpty());
  EXPECT_EQ(*record.find("alarm/dead_experts"), 0.0);
}

TEST(Alarms, SayNothingOfMetricsThatARecordLacks) {
  AlarmState state;
  Record record{.step = 1};
  record.add(metrics::train_loss, 1e9);
  EXPECT_THAT(Alarms({}).judge(record, state), IsEmpty());
  EXPECT_THAT(record.values, SizeIs(1));
}

TEST(Alarms, WaitForWhatMustLast) {
  AlarmsConfig config;
  config.patience = 20;
  const Metric& metric = metrics::load_max_violation;
  EXPECT_THAT(reported(config, metric, {{10, 3}, {20, 3}, {30, 3}, {40, 3}}), ElementsAre(30));
  EXPECT_THAT(reported(config, metric, {{10, 3}, {20, 1}, {30, 3}, {40, 3}}), IsEmpty());
}

TEST(Alarms, FireBelowALeastValue) {
  AlarmsConfig config;
  config.patience = 0;
  const Metric& metric = metrics::load_spread;
  EXPECT_THAT(reported(config, metric, {{10, 0.5}, {20, 0.05}}), ElementsAre(20));
}

TEST(Alarms, AreReportedOnChangeAndNotTooOften) {
  AlarmsConfig config;
  config.quiet = 100;
  const Metric& metric = metrics::router_logit_norm;
  EXPECT_THAT(
      reported(config, metric, {{10, 200}, {20, 200}, {30, 1}, {40, 200}, {120, 1}, {130, 200}}),
      ElementsAre(10, 130));
}

TEST(Alarms, CanBeSwitchedOff) {
  AlarmsConfig config;
  testing::set_fields(config, {{"dead_experts", "off"}, {"max_violation", 9.0}, {"patience", 0}});
  EXPECT_THAT(reported(config, metrics::load_dead_experts, {{10, 5}}), IsEmpty());
  EXPECT_THAT(reported(config, metrics::load_max_violation, {{10, 5}, {20, 9.5}}), ElementsAre(20));
}

TEST(Alarms, AreDeafToNumbersThatAreNoNumbers) {
  EXPECT_THAT(reported({}, metrics::router_logit_norm, {{10, std::nan("")}}), IsEmpty());
}

TEST(Alarms, GoOnWhereTheyStoodAfterAResume) {
  AlarmsConfig config;
  config.patience = 20;
  const Alarms alarms(config);
  AlarmState state;
  Record record = record_of(10, metrics::load_max_violation, {3});
  EXPECT_THAT(alarms.judge(record, state), IsEmpty());
  SaveVisitor save;
  state.visit_state(save);
  const StateDict saved = save.take();
  AlarmState back;
  LoadVisitor load(saved, "test");
  back.visit_state(load);
  load.finish();
  Record later = record_of(30, metrics::load_max_violation, {3});
  EXPECT_THAT(alarms.judge(later, back), SizeIs(1));
}

TEST(Alarms, HaveNamesOfTheirOwnAndAdviceInOneLine) {
  std::set<std::string_view> names;
  for (const AlarmType& type : alarm_types()) {
    EXPECT_TRUE(names.insert(type.name).second) << type.name;
    EXPECT_FALSE(type.advice.empty()) << type.name;
    EXPECT_EQ(type.advice.find('\n'), std::string_view::npos) << type.name;
  }
}

}  // namespace
}  // namespace sluice
