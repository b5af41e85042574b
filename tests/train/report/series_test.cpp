#include "train/report/series.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

namespace sluice::report {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

TEST(Series, KeepsAShortCurveAsItIs) {
  Series series;
  series.add(10, 3.0);
  series.add(20, 1.0);
  series.add(30, 2.0);
  EXPECT_THAT(series.outline(100), ElementsAre(Point{10, 3}, Point{20, 1}, Point{30, 2}));
  EXPECT_EQ(series.size(), 3);
  EXPECT_EQ(series.last(), 2.0);
  EXPECT_EQ(series.lowest(), (Point{20, 1}));
  EXPECT_EQ(series.highest(), (Point{10, 3}));
  EXPECT_DOUBLE_EQ(series.mean(), 2.0);
}

TEST(Series, KeepsTheExtremesAndTheEndsOfALongCurve) {
  Series series(64);
  for (int i = 0; i < 100'000; ++i) series.add(i, std::sin(i * 0.37));
  series.add(100'000, -50.0);
  series.add(100'001, 40.0);
  for (int i = 100'002; i < 200'000; ++i) series.add(i, std::sin(i * 0.37));
  const std::vector<Point> points = series.outline(64);
  EXPECT_LE(points.size(), 4u * 64u);
  EXPECT_THAT(points, ::testing::Contains(Point{100'000, -50.0}));
  EXPECT_THAT(points, ::testing::Contains(Point{100'001, 40.0}));
  EXPECT_EQ(points.front(), (Point{0, 0}));
  EXPECT_EQ(points.back(), (Point{199'999, std::sin(199'999 * 0.37)}));
  EXPECT_TRUE(std::ranges::is_sorted(points, {}, &Point::x));
  EXPECT_EQ(series.size(), 200'000);
}

TEST(Series, ThinsOnceMoreForASmallDrawing) {
  Series series;
  for (int i = 0; i < 1000; ++i) series.add(i, i == 777 ? 9.0 : 0.0);
  const std::vector<Point> points = series.outline(10);
  EXPECT_LE(points.size(), 40u);
  EXPECT_THAT(points, ::testing::Contains(Point{777, 9.0}));
}

TEST(Series, BreaksTheLineAtWhatIsNotFinite) {
  Series series;
  series.add(1, 5.0);
  series.add(2, kNothing);
  series.add(3, 7.0);
  series.add(4, std::numeric_limits<double>::infinity());
  const std::vector<Point> points = series.outline(100);
  ASSERT_EQ(points.size(), 4u);
  EXPECT_EQ(points[0], (Point{1, 5}));
  EXPECT_TRUE(std::isnan(points[1].y));
  EXPECT_EQ(points[2], (Point{3, 7}));
  EXPECT_TRUE(std::isnan(points[3].y));
  EXPECT_EQ(series.last(), 7.0);
  EXPECT_EQ(series.highest().y, 7.0);
  EXPECT_DOUBLE_EQ(series.mean(), 6.0);
}

TEST(Series, IsEmptyWithoutAFiniteValue) {
  Series series;
  EXPECT_TRUE(series.empty());
  EXPECT_THAT(series.outline(10), IsEmpty());
  series.add(1, kNothing);
  EXPECT_TRUE(series.empty());
  EXPECT_THAT(series.smoothed(5.0, 10), IsEmpty());
  series.add(2, 1.0);
  EXPECT_FALSE(series.empty());
  EXPECT_EQ(series.first_x(), 2.0);
}

TEST(Series, SmoothsAStraightLineToItself) {
  Series series;
  for (int i = 0; i < 300; ++i) series.add(i, 8.0 - 0.01 * i);
  for (const Point& point : series.smoothed(12.0, 300)) {
    EXPECT_NEAR(point.y, 8.0 - 0.01 * point.x, 1e-9) << point.x;
  }
}

TEST(Series, SmoothsNoiseAway) {
  Series series;
  for (int i = 0; i < 400; ++i) series.add(i, 2.0 + (i % 2 == 0 ? 0.5 : -0.5));
  for (const Point& point : series.smoothed(20.0, 50)) EXPECT_NEAR(point.y, 2.0, 0.06) << point.x;
  EXPECT_LE(series.smoothed(20.0, 50).size(), 51u);
  EXPECT_EQ(series.smoothed(20.0, 50).back().x, 399.0);
}

TEST(Series, SmoothsAcrossAGap) {
  Series series;
  for (int i = 0; i < 20; ++i) series.add(i, i == 10 ? kNothing : 3.0);
  const std::vector<Point> points = series.smoothed(4.0, 100);
  EXPECT_EQ(points.size(), 19u);
  for (const Point& point : points) EXPECT_NEAR(point.y, 3.0, 1e-12);
}

}  // namespace
}  // namespace sluice::report
