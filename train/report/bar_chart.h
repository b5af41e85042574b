#pragma once
// Horizontal bars as a figure of a page, with their values written beside them.

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
  std::vector<Bar> bars;  // from the top
  double width = 510.0;
};

/// The figure; empty without a bar. Bars begin at zero.
[[nodiscard]] std::string bar_chart(const BarChart& chart);

}  // namespace sluice::report
