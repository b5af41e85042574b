#include "train/report/line_chart.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>

#include "tests/support/markup.h"

namespace sluice::report {
namespace {

using ::testing::AllOf;
using testing::count_of;
using testing::data_of;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

LineChart simple_chart() {
  return {.id = "x",
          .title = "A title",
          .note = "A note.",
          .y_label = "nats",
          .lines = {{.name = "one", .colour = "c0", .points = {{0, 1}, {10, 3}, {20, 2}}}}};
}

TEST(LineChart, DrawsAPathWithATitleAndADescription) {
  const std::string figure = line_chart(simple_chart());
  EXPECT_THAT(figure, AllOf(HasSubstr("<title id=\"x-linear-t\">A title</title>"),
                            HasSubstr("<desc id=\"x-linear-d\">A note.</desc>"),
                            HasSubstr("role=\"img\""), HasSubstr("<details><summary>Values")));
  EXPECT_EQ(count_of(figure, "<path class=\"line c0\""), 1);
  EXPECT_EQ(count_of(figure, "<svg "), 1);
}

TEST(LineChart, IsNothingWithoutAValue) {
  LineChart chart = simple_chart();
  chart.lines[0].points = {{0, kNothing}};
  EXPECT_EQ(line_chart(chart), "");
  chart.lines.clear();
  EXPECT_EQ(line_chart(chart), "");
}

TEST(LineChart, BreaksTheLineAtAGap) {
  LineChart chart = simple_chart();
  chart.lines[0].points = {{0, 1}, {5, 2}, {7, kNothing}, {10, 3}, {20, 2}};
  const std::string figure = line_chart(chart);
  std::smatch path;
  ASSERT_TRUE(std::regex_search(figure, path, std::regex("class=\"line c0\" d=\"([^\"]*)\"")));
  EXPECT_EQ(count_of(path[1].str(), "M"), 2);
  EXPECT_EQ(count_of(path[1].str(), "L"), 2);
  EXPECT_THAT(figure, Not(HasSubstr("nan")));
}

TEST(LineChart, OffersALogarithmicDrawingOfPositiveValuesOnly) {
  LineChart chart = simple_chart();
  chart.can_be_logarithmic = true;
  EXPECT_EQ(count_of(line_chart(chart), "<svg class=\"plot log"), 1);
  EXPECT_EQ(count_of(line_chart(chart), "type=\"checkbox\""), 1);
  chart.lines[0].points.push_back({30, 0.0});
  EXPECT_EQ(count_of(line_chart(chart), "<svg class=\"plot log"), 0);
  EXPECT_EQ(count_of(line_chart(chart), "type=\"checkbox\""), 0);
}

TEST(LineChart, CarriesItsValuesForTheScript) {
  const nlohmann::json data = data_of(line_chart(simple_chart()));
  EXPECT_EQ(data.at("x"), "step");
  EXPECT_EQ(data.at("lines").at(0).at("name"), "one");
  EXPECT_EQ(data.at("lines").at(0).at("points"), nlohmann::json({0, 1, 10, 3, 20, 2}));
}

TEST(LineChart, KeepsAnEvilNameHarmless) {
  LineChart chart = simple_chart();
  chart.lines[0].name = "</script><img src=x onerror=alert(1)>";
  chart.title = "<script>alert(2)</script>";
  const std::string figure = line_chart(chart);
  EXPECT_THAT(figure, AllOf(Not(HasSubstr("<img")), Not(HasSubstr("<script>alert"))));
  EXPECT_EQ(data_of(figure).at("lines").at(0).at("name"), chart.lines[0].name);
}

TEST(LineChart, KeepsNamesAtTheEndsApart) {
  LineChart chart = simple_chart();
  chart.lines.clear();
  for (int i = 0; i < 6; ++i) {
    chart.lines.push_back(
        {.name = "n" + std::to_string(i), .colour = "c0", .points = {{0, 1}, {10, 2}}});
  }
  chart.lines.push_back({.name = "low", .colour = "c1", .points = {{0, 1}, {10, 0}}});
  const std::string figure = line_chart(chart);
  std::vector<double> heights;
  const std::regex label("class=\"label c[01]\" x=\"[^\"]*\" y=\"([^\"]*)\"");
  for (std::sregex_iterator at(figure.begin(), figure.end(), label), end; at != end; ++at) {
    heights.push_back(std::stod((*at)[1].str()));
  }
  ASSERT_EQ(heights.size(), 7u);
  std::ranges::sort(heights);
  for (size_t i = 1; i < heights.size(); ++i) EXPECT_GE(heights[i] - heights[i - 1], 14.99);
  EXPECT_LE(heights.back(), chart.height);
}

TEST(LineChart, DrawsABandBetweenItsCurves) {
  LineChart chart = simple_chart();
  chart.bands.push_back({"c0", {{0, 0.5}, {20, 1.5}}, {{0, 1.5}, {20, 6.0}}});
  const std::string figure = line_chart(chart);
  EXPECT_EQ(count_of(figure, "<path class=\"band c0\""), 1);
  EXPECT_THAT(figure, HasSubstr(">6<"));  // the axis reaches over the band
}

TEST(LineChart, ColoursAnOrderFromEndToEnd) {
  EXPECT_EQ(ordered_colour(0, 12), "q0");
  EXPECT_EQ(ordered_colour(11, 12), "q9");
  EXPECT_EQ(category_colour(7), "c7");
  EXPECT_EQ(category_colour(9), "c1 dash");
  EXPECT_EQ(ordered_colour(0, 1), "q3");
}

}  // namespace
}  // namespace sluice::report
