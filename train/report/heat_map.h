#pragma once
// A heat map as a figure of a page: cells in steps of a palette, drawn as one path per step, so that
// a matrix of thousands of cells stays small. A script adds values under the pointer and, for a map
// over time, a slider.

#include <cstdint>
#include <string>
#include <vector>

#include "train/report/axis.h"

namespace sluice::report {

/// Which step of which palette a value has.
struct ColourScale {
  /// sequential: from nothing to much. diverging: below, at, above what is even.
  enum class Palette : uint8_t { sequential, diverging };
  static constexpr int kSteps = 25;  // odd: the middle of a diverging palette is one step

  Palette palette = Palette::sequential;
  bool is_logarithmic = false;  // to base 2
  double low = 0.0;
  double high = 1.0;
  std::vector<Tick> ticks;  // of the legend
  std::string zero;         // what a value of exactly 0 means, drawn apart; empty: nothing special

  /// 0 to kSteps - 1; values beyond the ends have the steps of the ends.
  [[nodiscard]] int step_of(double value) const;

  /// For shares of a whole: 0 to the largest of `values`.
  [[nodiscard]] static ColourScale shares(const std::vector<std::vector<double>>& values);
  /// For ratios to the even share, 1 in the middle: linear to 5, 10, 25 or 50 % on both sides when
  /// all values lie within, otherwise logarithmic to a factor of 2, 4 or 8.
  [[nodiscard]] static ColourScale ratios(const std::vector<std::vector<double>>& values);
};

struct HeatMap {
  std::string id;
  std::string title;
  std::string note;
  std::string row_name;                     // "layer"
  std::string column_name;                  // "expert"
  std::string value_name;                   // "load over its mean"
  std::vector<std::string> rows;            // labels
  std::vector<std::string> columns;         // labels; empty: 0, 1, ...
  std::vector<size_t> labelled_columns;     // whose labels are written; empty: as many as fit
  std::vector<std::vector<double>> values;  // [rows][<= columns]; not a number: no cell
  ColourScale scale;
  double width = 1040.0;        // of the drawing
  double greatest_cell = 56.0;  // a cell is no wider and no higher
  bool is_square = false;       // cells as high as wide

  /// The same map at other times, for the slider; the map itself is what shows without a script.
  struct Frame {
    std::string label;  // "steps 101 to 120"
    std::vector<std::vector<double>> values;
  };
  std::string label;  // of the map itself: "whole run"
  std::vector<Frame> frames;
  bool has_legend = true;
};

/// The figure; empty without a cell.
[[nodiscard]] std::string heat_map(const HeatMap& map);

/// The legend of a scale on its own, for a group of maps that share it.
[[nodiscard]] std::string heat_legend(const ColourScale& scale, const std::string& value_name);

/// CSS rules of both palettes' steps, under `selector` (":root", or within a media query).
[[nodiscard]] std::string palette_rules(bool is_dark);

}  // namespace sluice::report
