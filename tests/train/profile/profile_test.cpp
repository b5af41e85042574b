#include "train/profile/profile.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "train/profile/profile_text.h"
#include "train/profile/trace_events.h"

namespace sluice {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

/// A kernel that began `start` after the start of time and took `length`.
WorkItem kernel(std::string_view name, Phase phase, Direction direction, KernelCost cost,
                milliseconds start, milliseconds length) {
  const WorkItem::Clock::time_point zero{};
  return {.name = name,
          .phase = phase,
          .direction = direction,
          .cost = cost,
          .start = zero + start,
          .end = zero + start + length,
          .seconds = std::chrono::duration<double>(length).count()};
}

void add_step(Profile& profile, int64_t number) {
  const Profile::Step step(&profile, number);
  profile.add(kernel("matmul", Phase::attention, Direction::forward, {.flops = 3e9, .bytes = 1e6},
                     milliseconds(10), milliseconds(30)));
  profile.add(kernel("matmul", Phase::attention, Direction::backward, {.flops = 8e9, .bytes = 2e6},
                     milliseconds(40), milliseconds(80)));
  profile.add(kernel("swiglu", Phase::feed_forward, Direction::forward, {.bytes = 4e8},
                     milliseconds(120), milliseconds(20)));
  profile.add(kernel(kHostWork, Phase::routing, Direction::forward, {}, milliseconds(140),
                     milliseconds(5)));
}

TEST(Profile, LeavesOutTheFirstStepAndWhatLiesBetweenSteps) {
  Profile profile;
  add_step(profile, 1);
  EXPECT_EQ(profile.summary().steps, 0);
  EXPECT_THAT(profile.summary().entries, IsEmpty());
  profile.add(
      kernel("matmul", Phase::attention, Direction::forward, {}, milliseconds(0), milliseconds(1)));
  add_step(profile, 2);
  add_step(profile, 3);
  const ProfileSummary summary = profile.summary();
  EXPECT_EQ(summary.steps, 2);
  ASSERT_THAT(summary.entries, SizeIs(4));
  EXPECT_EQ(summary.entries[0].name, "matmul");
  EXPECT_EQ(summary.entries[0].direction, Direction::backward);
  EXPECT_EQ(summary.entries[0].total.calls, 2);
  EXPECT_DOUBLE_EQ(summary.entries[0].total.flops, 16e9);
  EXPECT_DOUBLE_EQ(summary.entries[0].total.seconds, 0.16);
  EXPECT_EQ(summary.entries[2].name, "swiglu");
  EXPECT_DOUBLE_EQ(summary.entries[2].total.bytes, 8e8);
}

TEST(Profile, KeepsSingleCallsOfTheFirstStepsOnly) {
  Profile profile;
  const int64_t steps = Profile::kTracedSteps + 5;
  for (int64_t step = 1; step <= steps; ++step) {
    add_step(profile, step);
    const Profile::Span span(&profile, "evaluation");
  }
  EXPECT_EQ(profile.summary().steps, steps - 1);
  EXPECT_THAT(profile.items(), SizeIs(4 * Profile::kTracedSteps));
  EXPECT_THAT(profile.stretches(), SizeIs(2 * Profile::kTracedSteps));
  EXPECT_EQ(profile.stretches().front().name, "step 2");
}

TEST(Profile, DoesNothingWhereThereIsNone) {
  const Profile::Step step(nullptr, 1);
  const Profile::Span span(nullptr, "checkpoint");
}

TEST(ProfileText, GivesRatesBesideThePeaks) {
  ProfileSummary summary{
      .page = {}, .steps = 2, .seconds = 0.5, .gemm_peak = 2e11, .triad_peak = 4e10};
  summary.entries = {
      {"matmul", Phase::attention, Direction::backward, {16e9, 4e6, 0.16, 2}},
      {"matmul", Phase::attention, Direction::forward, {6e9, 2e6, 0.06, 2}},
      {"swiglu", Phase::feed_forward, Direction::forward, {0.0, 8e8, 0.04, 4}},
      {kHostWork, Phase::routing, Direction::forward, {0.0, 0.0, 0.01, 0}},
  };
  EXPECT_NEAR(summary.unaccounted(), 0.23, 1e-12);
  const std::string text = profile_text(summary);
  EXPECT_THAT(text, HasSubstr("profile of 2 steps, 250.000 ms each"));
  // 22 GFLOP in 0.22 s; 110 ms a step, 44 % of it.
  EXPECT_THAT(text, ::testing::ContainsRegex("attention +2.0 +110.000 +44.0 % +100.0 +50.0 %"));
  EXPECT_THAT(text,
              ::testing::ContainsRegex("matmul backward +1.0 +80.000 +32.0 % +100.0 +50.0 %"));
  EXPECT_THAT(text, ::testing::ContainsRegex("swiglu +2.0 +20.000 +8.0 % +20.0 +50.0 %"));
  EXPECT_THAT(text, ::testing::ContainsRegex("\\(host\\) routing +0.0 +5.000 +2.0 %"));
  EXPECT_THAT(text, ::testing::ContainsRegex("outside of these +0.0 +115.000 +46.0 %"));
}

TEST(ProfileText, SaysWhyThereIsNothingToShow) {
  EXPECT_THAT(profile_text({}), HasSubstr("train two or more"));
}

TEST(TraceEvents, AreCompleteEventsFromTimeZero) {
  Profile profile;
  add_step(profile, 1);
  EXPECT_THAT(nlohmann::json::parse(trace_events(profile)).at("traceEvents"), SizeIs(2));
  add_step(profile, 2);
  const auto events = nlohmann::json::parse(trace_events(profile)).at("traceEvents");
  ASSERT_THAT(events, SizeIs(7));  // two names of rows, the step, four items of work
  double least = 1e300;
  for (const auto& event : events) {
    if (event.at("ph") != "X") continue;
    least = std::min(least, event.at("ts").get<double>());
  }
  EXPECT_EQ(least, 0.0);
  const auto& backward = events[4];
  EXPECT_EQ(backward.at("name"), "matmul");
  EXPECT_EQ(backward.at("cat"), "attention");
  EXPECT_EQ(backward.at("ts"), 30e3);
  EXPECT_EQ(backward.at("dur"), 80e3);
  EXPECT_EQ(backward.at("args").at("direction"), "backward");
  EXPECT_DOUBLE_EQ(backward.at("args").at("GFLOP/s").get<double>(), 100.0);
  EXPECT_EQ(events[6].at("name"), "routing");
  EXPECT_FALSE(events[6].at("args").contains("GB/s"));
}

}  // namespace
}  // namespace sluice
