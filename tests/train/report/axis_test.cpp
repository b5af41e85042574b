#include "train/report/axis.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

namespace sluice::report {
namespace {

using ::testing::Each;
using ::testing::ElementsAre;

std::vector<std::string> labels(const Axis& axis) {
  std::vector<std::string> result;
  for (const Tick& tick : axis.ticks) result.push_back(tick.label);
  return result;
}

TEST(Axis, PutsTicksAtRoundNumbers) {
  EXPECT_THAT(labels(linear_axis(0.0, 500.0)), ElementsAre("0", "100", "200", "300", "400", "500"));
  EXPECT_THAT(labels(linear_axis(0.0, 0.0031, 4)), ElementsAre("0", "0.001", "0.002", "0.003"));
  EXPECT_THAT(labels(linear_axis(2.13, 3.38, 5)), ElementsAre("2.5", "3.0"));
  EXPECT_THAT(labels(linear_axis(-1.0, 1.0, 4)), ElementsAre("-1.0", "-0.5", "0", "0.5", "1.0"));
}

TEST(Axis, ShortensLargeAndSmallNumbers) {
  EXPECT_THAT(labels(linear_axis(0.0, 20'000.0, 4)), ElementsAre("0", "5k", "10k", "15k", "20k"));
  EXPECT_THAT(labels(linear_axis(0.0, 3.2e6, 3)), ElementsAre("0", "2M"));
  EXPECT_THAT(labels(linear_axis(0.0, 6e-5, 3)), ElementsAre("0", "2×10⁻⁵", "4×10⁻⁵", "6×10⁻⁵"));
}

TEST(Axis, WidensARangeOfNoLength) {
  for (const double value : {0.0, 4.5, -3.0}) {
    const Axis axis = linear_axis(value, value);
    EXPECT_LT(axis.low, value);
    EXPECT_GT(axis.high, value);
    EXPECT_FALSE(axis.ticks.empty());
  }
  const Axis axis = logarithmic_axis(2.0, 2.0);
  EXPECT_LT(axis.low, axis.high);
}

TEST(Axis, PlacesTheEndsAtZeroAndOne) {
  const Axis linear = linear_axis(2.0, 6.0);
  EXPECT_DOUBLE_EQ(linear.share(2.0), 0.0);
  EXPECT_DOUBLE_EQ(linear.share(3.0), 0.25);
  EXPECT_DOUBLE_EQ(linear.share(6.0), 1.0);
  const Axis logarithmic = logarithmic_axis(1.0, 100.0);
  EXPECT_DOUBLE_EQ(logarithmic.share(10.0), 0.5);
  EXPECT_LT(logarithmic.share(0.0), 0.0);  // finite, below the axis
  EXPECT_GT(logarithmic.share(0.0), -10.0);
}

TEST(Axis, PutsLogarithmicTicksAtOneTwoFiveOrAtPowers) {
  EXPECT_THAT(labels(logarithmic_axis(1.0, 50.0)), ElementsAre("1", "2", "5", "10", "20", "50"));
  EXPECT_THAT(labels(logarithmic_axis(0.001, 100.0, 6)),
              ElementsAre("0.001", "0.01", "0.1", "1", "10", "100"));
  EXPECT_THAT(labels(logarithmic_axis(3.9, 7.6)), ElementsAre("4", "5", "6", "7"));
}

TEST(Axis, KeepsTicksWithinItself) {
  for (const auto& [low, high] :
       {std::pair(0.123, 9.87), std::pair(-3e7, 2e6), std::pair(1e-9, 2e-9)}) {
    for (const int count : {2, 5, 9}) {
      const Axis axis = linear_axis(low, high, count);
      EXPECT_GE(axis.ticks.size(), 1u);
      EXPECT_LE(axis.ticks.size(), static_cast<size_t>(2 * count + 1));
      for (const Tick& tick : axis.ticks) {
        EXPECT_GE(tick.value, low - 1e-6 * (high - low));
        EXPECT_LE(tick.value, high + 1e-6 * (high - low));
      }
    }
  }
}

TEST(Axis, BeginsAtZeroWhenValuesComeNear) {
  EXPECT_EQ(value_axis(0.1, 2.0).low, 0.0);
  EXPECT_GT(value_axis(4.0, 7.0).low, 3.5);
  EXPECT_LT(value_axis(-1.0, 1.0).low, -1.0);
}

}  // namespace
}  // namespace sluice::report
