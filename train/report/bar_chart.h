#pragma once
// Horizontal bars as a figure of a page, with their values written beside them; or dots, for values
// whose differences matter more than their distance from zero.

#include <string>
#include <vector>

namespace sluice::report {

struct Bar {
  std::string name;
  double value = 0.0;
  double spread = 0.0;  // drawn on both sides of the end; 0 for none
  std::string text;     // beside the bar
  std::string colour;   // see line_chart.h
};

struct BarChart {
  std::string id;
  std::string title;
  std::string note;
  std::vector<Bar> bars;       // from the top
  bool begins_at_zero = true;  // false: dots on an axis that begins near the least
  double width = 510.0;
};

/// The figure; empty without a bar. Bars whose value is not finite show their text only.
[[nodiscard]] std::string bar_chart(const BarChart& chart);

}  // namespace sluice::report
