#include "train/report/heat_map.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/support/markup.h"

namespace sluice::report {
namespace {

using ::testing::AllOf;
using testing::count_of;
using testing::data_of;
using ::testing::HasSubstr;
using ::testing::Not;

constexpr double kNothing = std::numeric_limits<double>::quiet_NaN();

HeatMap simple_map() {
  return {.id = "m",
          .title = "Load",
          .row_name = "layer",
          .column_name = "expert",
          .value_name = "load",
          .rows = {"0", "1"},
          .values = {{1.0, 2.0, 0.0}, {0.5, kNothing, 1.0}},
          .scale = ColourScale::ratios({{0.5, 2.0}})};
}

int cells_of(std::string_view figure) {
  const size_t begin = figure.find("<g class=\"cells\"");
  return count_of(figure.substr(begin, figure.find("</g>", begin) - begin), "M");
}

TEST(HeatMap, DrawsEveryCellThatHasAValue) {
  const std::string figure = heat_map(simple_map());
  EXPECT_EQ(cells_of(figure), 5);
  EXPECT_THAT(figure, AllOf(HasSubstr("<title id=\"m-t\">Load</title>"), HasSubstr("no token"),
                            HasSubstr("<path class=\"zero\""), Not(HasSubstr("nan"))));
}

TEST(HeatMap, IsNothingWithoutACell) {
  HeatMap map = simple_map();
  map.values.clear();
  EXPECT_EQ(heat_map(map), "");
}

TEST(HeatMap, CarriesValuesAndFramesForTheScript) {
  HeatMap map = simple_map();
  map.label = "whole run";
  map.frames = {{"steps 1 to 5", {{1, 1, 1}, {1, 1, 1}}},
                {"steps 6 to 9", {{2, 0.25, 1}, {1, 1, 1}}}};
  const std::string figure = heat_map(map);
  const nlohmann::json data = data_of(figure);
  EXPECT_EQ(data.at("values"), nlohmann::json::parse("[[1000,2000,0],[500,null,1000]]"));
  EXPECT_EQ(data.at("frames").at(1).at("values").at(0).at(1), 250);
  EXPECT_EQ(data.at("label"), "whole run");
  EXPECT_EQ(count_of(figure, "type=\"range\""), 1);
  EXPECT_THAT(figure, HasSubstr("<div class=\"slider\" hidden>"));
}

TEST(HeatMap, KeepsAMatrixOfManyCellsSmall) {
  HeatMap map = simple_map();
  map.is_square = true;
  map.values.assign(64, std::vector<double>(64));
  for (size_t i = 0; i < 64; ++i) {
    for (size_t j = 0; j < 64; ++j) map.values[i][j] = static_cast<double>(i * 64 + j) / 2048.0;
  }
  EXPECT_LT(heat_map(map).size(), 100'000u);
  EXPECT_EQ(cells_of(heat_map(map)), 64 * 64);
}

TEST(ColourScale, PutsTheEvenShareInTheMiddle) {
  for (const auto& values : {std::vector<double>{0.99, 1.04}, {0.6, 1.2}, {0.1, 7.0}}) {
    const ColourScale scale = ColourScale::ratios({values});
    EXPECT_EQ(scale.step_of(1.0), ColourScale::kSteps / 2);
    EXPECT_LT(scale.step_of(values[0]), ColourScale::kSteps / 2);
    EXPECT_GT(scale.step_of(values[1]), ColourScale::kSteps / 2);
  }
}

TEST(ColourScale, ReachesAsFarAsTheValues) {
  EXPECT_EQ(ColourScale::ratios({{0.96, 1.05}}).high, 1.05);
  EXPECT_EQ(ColourScale::ratios({{0.76, 1.05}}).low, 0.75);
  const ColourScale wide = ColourScale::ratios({{0.0, 7.5}});
  EXPECT_TRUE(wide.is_logarithmic);
  EXPECT_EQ(wide.high, 3.0);
  EXPECT_EQ(wide.ticks.back().label, "×8");
  EXPECT_EQ(wide.step_of(100.0), ColourScale::kSteps - 1);
  EXPECT_EQ(wide.step_of(1e-9), 0);
}

TEST(ColourScale, ReadsSharesFromZeroToTheLargest) {
  const ColourScale scale = ColourScale::shares({{0.1, kNothing}, {0.4, 0.0}});
  EXPECT_EQ(scale.step_of(0.0), 0);
  EXPECT_EQ(scale.step_of(0.4), ColourScale::kSteps - 1);
  EXPECT_EQ(scale.ticks[1].label, "10 %");
}

TEST(Palette, GivesEveryStepAColourOfItsOwn) {
  for (const bool is_dark : {false, true}) {
    const std::string rules = palette_rules(is_dark);
    for (const char palette : {'s', 'd'}) {
      std::set<std::string> colours;
      for (int step = 0; step < ColourScale::kSteps; ++step) {
        const std::string rule = fmt::format(".{}{}{{fill:", palette, step);
        const size_t at = rules.find(rule);
        ASSERT_NE(at, std::string::npos) << rule;
        colours.insert(rules.substr(at + rule.size(), 7));
      }
      EXPECT_EQ(colours.size(), static_cast<size_t>(ColourScale::kSteps));
    }
  }
}

}  // namespace
}  // namespace sluice::report
