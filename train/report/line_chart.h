#pragma once
// A line chart as a figure of a page: drawn here, as SVG; a script adds values under the pointer.

#include <optional>
#include <string>
#include <vector>

#include "train/report/series.h"

namespace sluice::report {

/// How a colour is named: "c0" to "c7" for things apart (and dashed, "c0 dash", from the ninth on), "q0" to "q9" for things in an order
/// (layers by depth). The style sheet has them for light and dark.
[[nodiscard]] std::string category_colour(size_t index);
[[nodiscard]] std::string ordered_colour(size_t index, size_t count);

struct Line {
  enum class Look { strong, plain, faint, dots };  // dots: joined points
  std::string name;
  std::string colour;
  std::vector<Point> points;  // x rising; a y that is not finite breaks the line
  Look look = Look::plain;
  /// Written at its right end instead of in the legend.
  bool is_labelled = true;
};

/// Between two curves of equal x: a spread.
struct Band {
  std::string colour;
  std::vector<Point> low;
  std::vector<Point> high;
};

struct LineChart {
  std::string id;  // of the page, unique
  std::string title;
  std::string note;  // one or two sentences under the title
  std::string x_label = "step";
  std::string y_label;
  std::vector<Line> lines;
  std::vector<Band> bands;
  /// A horizontal line with its meaning.
  struct Level {
    double y = 0.0;
    std::string name;
  };
  std::vector<Level> levels;
  double width = 1040.0;
  double height = 380.0;
  bool can_be_logarithmic = false;  // offers the switch where all values are positive
  bool starts_at_zero = false;
};

/// The figure; empty when no line has a finite point.
[[nodiscard]] std::string line_chart(const LineChart& chart);

}  // namespace sluice::report
