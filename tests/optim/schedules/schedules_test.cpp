#include "optim/schedules.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "autograd/support/error.h"
#include "tests/support/set_fields.h"

namespace sluice {
namespace {

using namespace nlohmann::literals;
using testing::set_fields;

// Rounding of a handful of operations on values near 1.
constexpr double kTolerance = 1e-12;
// The worked values are given to six places.
constexpr double kSixPlaces = 5e-7;

std::shared_ptr<ScheduleShape> make(std::string_view type, const nlohmann::json& fields) {
  auto shape = make_schedule_shape(type);
  set_fields(*shape, fields);
  EXPECT_EQ(shape->check(), "");
  return shape;
}

Progress at_step(int64_t step, int64_t total = 1000) {
  return {.step = step,
          .tokens = 8 * step,
          .epochs = 0.002 * static_cast<double>(step),
          .total_steps = total,
          .total_tokens = 8 * total,
          .total_epochs = 0.002 * static_cast<double>(total)};
}

TEST(CosineSchedule, HasTheWorkedValues) {
  const auto cosine = make("cosine", R"({"peak": 1.0, "warmup": 100, "final": 0.1})"_json);
  const std::vector<std::pair<int64_t, double>> worked = {
      {50, 0.5},       {100, 1.0},      {325, 0.868198}, {550, 0.55},
      {900, 0.127138}, {950, 0.106837}, {1000, 0.1}};
  for (const auto& [step, value] : worked) {
    EXPECT_NEAR(cosine->value(at_step(step)), value, kSixPlaces) << "step " << step;
  }
}

TEST(CosineSchedule, EndsAtATenthOfThePeakUnlessTold) {
  const auto cosine = make("cosine", R"({"peak": 2.0})"_json);
  EXPECT_EQ(cosine->value(at_step(0)), 2.0);
  EXPECT_DOUBLE_EQ(cosine->value(at_step(1000)), 0.2);
  EXPECT_EQ(cosine->value(at_step(1000)), cosine->value(at_step(5000))) << "clamped after the end";
}

TEST(CosineSchedule, EndsBeforeTheRunWhenTotalSaysSo) {
  const auto cosine = make("cosine", R"({"peak": 1.0, "final": 0.0, "total": "50%"})"_json);
  EXPECT_NEAR(cosine->value(at_step(250)), 0.5, kTolerance);
  EXPECT_EQ(cosine->value(at_step(500)), 0.0);
  EXPECT_EQ(cosine->value(at_step(900)), 0.0);
}

TEST(CosineSchedule, GivesEqualValuesInEveryUnit) {
  const auto steps = make("cosine", R"({"peak": 1.0, "warmup": "100 steps"})"_json);
  for (const char* warmup : {"800 tokens", "0.2 epochs", "10%"}) {
    const auto other = make("cosine", {{"peak", 1.0}, {"warmup", warmup}});
    for (const int64_t step : {0, 50, 100, 333, 999, 1000, 1200}) {
      EXPECT_NEAR(other->value(at_step(step)), steps->value(at_step(step)), kTolerance)
          << warmup << " at step " << step;
    }
  }
}

TEST(CosineSchedule, RefusesAWarmupLongerThanItself) {
  const auto cosine = make_schedule_shape("cosine");
  set_fields(*cosine, R"({"peak": 1.0, "warmup": "20 steps", "total": "10 steps"})"_json);
  EXPECT_EQ(cosine->check(), "warmup: found 20 steps, allowed at most total (10 steps)");
}

TEST(WsdSchedule, HasTheWorkedValues) {
  const auto wsd = make("wsd", R"({"peak": 1.0, "warmup": 100, "decay": "100 steps"})"_json);
  EXPECT_EQ(wsd->value(at_step(50)), 0.5);
  EXPECT_EQ(wsd->value(at_step(900)), 1.0);
  EXPECT_NEAR(wsd->value(at_step(950)), 0.5, kTolerance);
  EXPECT_EQ(wsd->value(at_step(1000)), 0.0);
}

TEST(WsdSchedule, DecaysOverTheLastTenthByDefault) {
  const auto wsd = make("wsd", R"({"peak": 1.0, "final": 0.2})"_json);
  EXPECT_EQ(wsd->value(at_step(900)), 1.0);
  EXPECT_NEAR(wsd->value(at_step(950)), 0.6, kTolerance);
  EXPECT_EQ(wsd->value(at_step(1000)), 0.2);
}

TEST(WsdSchedule, CanDecayByOneMinusSquareRoot) {
  const auto wsd = make("wsd", R"({"peak": 1.0, "decay": 100, "decay_shape": "sqrt"})"_json);
  EXPECT_NEAR(wsd->value(at_step(925)), 0.5, kTolerance);  // 1 - sqrt(1/4)
  EXPECT_EQ(wsd->value(at_step(1000)), 0.0);
}

TEST(WsdSchedule, CanBeForkedFromAnyStableStep) {
  const auto wsd = make("wsd", R"({"peak": 1.0, "warmup": 100, "decay": "100 steps"})"_json);
  for (const int64_t step : {0, 37, 100, 400, 600}) {
    EXPECT_EQ(wsd->value(at_step(step, 700)), wsd->value(at_step(step, 100000))) << step;
  }
}

TEST(WsdSchedule, KeepsTheWarmupOfARunTooShortForBoth) {
  const auto wsd = make("wsd", R"({"peak": 1.0, "warmup": 60, "decay": "80 steps"})"_json);
  EXPECT_EQ(wsd->value(at_step(30, 100)), 0.5);
  EXPECT_EQ(wsd->value(at_step(60, 100)), 1.0);
  EXPECT_NEAR(wsd->value(at_step(80, 100)), 0.5, kTolerance);
}

TEST(ConstantSchedule, WarmsUpAndStays) {
  const auto constant =
      make("constant", R"({"value": 3.0, "warmup": 10, "warmup_from": 1.0})"_json);
  EXPECT_EQ(constant->value(at_step(0)), 1.0);
  EXPECT_EQ(constant->value(at_step(5)), 2.0);
  EXPECT_EQ(constant->value(at_step(10)), 3.0);
  EXPECT_EQ(constant->value(at_step(5000)), 3.0);
}

TEST(LinearSchedule, RunsFromOneValueToTheOther) {
  const auto linear = make("linear", R"({"from": 8.0, "to": 2.0, "over": "300 steps"})"_json);
  EXPECT_EQ(linear->value(at_step(0)), 8.0);
  EXPECT_EQ(linear->value(at_step(150)), 5.0);
  EXPECT_EQ(linear->value(at_step(300)), 2.0);
  EXPECT_EQ(linear->value(at_step(301)), 2.0);
  const auto whole_run = make("linear", R"({"from": 0.0, "to": 1.0})"_json);
  EXPECT_EQ(whole_run->value(at_step(250)), 0.25);
}

TEST(ExponentialSchedule, HasTheWorkedValues) {
  const auto falling =
      make("exponential", R"({"from": 2.0, "to": 0.3, "over": "10000 steps"})"_json);
  const std::vector<std::pair<int64_t, double>> worked = {
      {0, 2.0}, {2500, 1.244666}, {5000, 0.774597}, {10000, 0.3}, {12000, 0.3}};
  for (const auto& [step, value] : worked) {
    EXPECT_NEAR(falling->value(at_step(step)), value, kSixPlaces) << "step " << step;
  }
  const auto whole_run = make("exponential", R"({"from": 1.0, "to": 16.0})"_json);
  EXPECT_NEAR(whole_run->value(at_step(500)), 4.0, kTolerance);
}

TEST(InverseSqrtSchedule, FallsWithTheSquareRootOfTheStep) {
  const auto shape = make("inverse_sqrt", R"({"peak": 1.0, "warmup": 100})"_json);
  EXPECT_EQ(shape->value(at_step(50)), 0.5);
  EXPECT_EQ(shape->value(at_step(100)), 1.0);
  EXPECT_EQ(shape->value(at_step(400)), 0.5);
  EXPECT_EQ(shape->value(at_step(2500)), 0.2);
}

TEST(InverseSqrtSchedule, NeedsAWarmup) {
  const auto shape = make_schedule_shape("inverse_sqrt");
  set_fields(*shape, R"({"peak": 1.0, "warmup": 0})"_json);
  EXPECT_EQ(shape->check(),
            "warmup: found 0 steps, allowed more than 0: the decay is measured in warm-ups");
}

TEST(PiecewiseSchedule, JoinsItsPoints) {
  const auto linear = make("piecewise", R"({"points": [{"at": 10, "value": 1.0},
      {"at": 20, "value": 3.0}, {"at": 40, "value": 0.0}]})"_json);
  EXPECT_EQ(linear->value(at_step(0)), 1.0);
  EXPECT_EQ(linear->value(at_step(10)), 1.0);
  EXPECT_EQ(linear->value(at_step(15)), 2.0);
  EXPECT_EQ(linear->value(at_step(20)), 3.0);
  EXPECT_EQ(linear->value(at_step(30)), 1.5);
  EXPECT_EQ(linear->value(at_step(99)), 0.0);
}

TEST(PiecewiseSchedule, StepsFromPointToPoint) {
  const auto step = make("piecewise", R"({"mode": "step", "points": [{"at": "0 epochs", "value": 2},
      {"at": "1 epoch", "value": 1}]})"_json);
  EXPECT_EQ(step->value(at_step(0)), 2.0);
  EXPECT_EQ(step->value(at_step(499)), 2.0);
  EXPECT_EQ(step->value(at_step(500)), 1.0);
}

TEST(PiecewiseSchedule, WantsAscendingPointsInOneUnit) {
  const auto problem = [](const nlohmann::json& points) {
    const auto shape = make_schedule_shape("piecewise");
    set_fields(*shape, {{"points", points}});
    return shape->check();
  };
  EXPECT_EQ(problem(nlohmann::json::array()),
            "points: found an empty list, allowed one point or more");
  EXPECT_EQ(problem(R"([{"at": 5, "value": 1}, {"at": 5, "value": 2}])"_json),
            "points.1.at: found 5 steps, allowed more than 5 steps");
  EXPECT_EQ(problem(R"([{"at": 5, "value": 1}, {"at": "9 tokens", "value": 2}])"_json),
            "points.1.at: found 9 tokens, allowed the unit of 5 steps");
}

// One valid example of each registered shape; a new one fails here until it has its line.
nlohmann::json example_of(std::string_view type) {
  const nlohmann::json examples = R"({
    "constant": {"value": 0.7, "warmup": 100},
    "exponential": {"from": 0.9, "to": 0.2, "over": "700 steps"},
    "linear": {"from": 0.9, "to": 0.2, "over": "700 steps"},
    "cosine": {"peak": 0.9, "warmup": 100, "final": 0.05},
    "wsd": {"peak": 0.9, "warmup": 100, "decay": "20%", "final": 0.1},
    "inverse_sqrt": {"peak": 0.9, "warmup": 100},
    "piecewise": {"points": [{"at": 0, "value": 0.1}, {"at": 300, "value": 0.9}, {"at": 900, "value": 0.4}]}
  })"_json;
  return examples.at(std::string(type));
}

class EverySchedule : public ::testing::TestWithParam<std::string> {};

TEST_P(EverySchedule, IsContinuous) {
  const auto shape = make(GetParam(), example_of(GetParam()));
  // The steepest example rises by 0.9 in 100 steps; none may jump.
  const double largest_change = 0.9 / 100.0 + kTolerance;
  for (int64_t step = 0; step < 1200; ++step) {
    const double change = shape->value(at_step(step + 1)) - shape->value(at_step(step));
    EXPECT_LE(std::abs(change), largest_change) << "step " << step;
  }
}

TEST_P(EverySchedule, StaysWithinItsExtremes) {
  const auto shape = make(GetParam(), example_of(GetParam()));
  const auto [least, greatest] = shape->extremes();
  for (int64_t step = 0; step < 1200; ++step) {
    EXPECT_GE(shape->value(at_step(step)), least) << "step " << step;
    EXPECT_LE(shape->value(at_step(step)), greatest) << "step " << step;
  }
}

TEST_P(EverySchedule, IsAPureFunctionOfProgress) {
  const auto shape = make(GetParam(), example_of(GetParam()));
  const auto resumed = make(GetParam(), example_of(GetParam()));
  std::vector<double> values;
  for (int64_t step = 0; step < 1000; ++step) values.push_back(shape->value(at_step(step)));
  for (int64_t step = 999; step >= 0; --step) {
    EXPECT_EQ(resumed->value(at_step(step)), values[static_cast<size_t>(step)]);
  }
}

std::vector<std::string> registered_names() {
  std::vector<std::string> names;
  for (const Choice& choice : schedule_choices()) names.emplace_back(choice.name);
  return names;
}

INSTANTIATE_TEST_SUITE_P(Schedules, EverySchedule, ::testing::ValuesIn(registered_names()),
                         [](const auto& instance) { return instance.param; });

TEST(ScheduleTable, DocumentsEveryShape) {
  for (const Choice& choice : schedule_choices()) EXPECT_FALSE(choice.doc.empty()) << choice.name;
}

TEST(ScheduleTable, SuggestsTheNearestName) {
  try {
    (void)make_schedule_shape("cosin");
    FAIL();
  } catch (const ConfigError& error) {
    EXPECT_STREQ(error.what(),
                 "unknown schedule \"cosin\"; did you mean \"cosine\"? Known: constant, linear, "
                 "exponential, cosine, wsd, inverse_sqrt, piecewise");
  }
}

TEST(Schedule, OverTheWholeRunNeedsItsLength) {
  const auto cosine = make("cosine", R"({"peak": 1.0})"_json);
  EXPECT_THROW((void)cosine->value({.step = 5}), ConfigError);
}

}  // namespace
}  // namespace sluice
