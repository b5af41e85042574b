#include "train/report/heat_map.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <string_view>

#include "train/report/text.h"

namespace sluice::report {
namespace {

double in_scale(const ColourScale& scale, double value) {
  constexpr double kSmallest = 1e-6;
  return scale.is_logarithmic ? std::log2(std::max(value, kSmallest)) : value;
}

/// Where the cells lie in the drawing.
struct Grid {
  double left = 0.0, top = 0.0, cell_width = 0.0, cell_height = 0.0, gap = 0.0;
  size_t columns = 0;
};

constexpr double kLetterWidth = 6.6;
constexpr double kTop = 20.0;

Grid make_grid(const HeatMap& map) {
  Grid grid;
  for (const auto& row : map.values) grid.columns = std::max(grid.columns, row.size());
  size_t widest = 0;
  for (const std::string& label : map.rows) widest = std::max(widest, label.size());
  grid.left = 14.0 + kLetterWidth * static_cast<double>(widest);
  grid.top = kTop;
  const auto columns = static_cast<double>(std::max<size_t>(grid.columns, 1));
  grid.cell_width = std::min((map.width - grid.left - 6.0) / columns, map.greatest_cell);
  constexpr double kRowHeight = 26.0;
  grid.cell_height = map.is_square ? grid.cell_width : std::min(kRowHeight, map.greatest_cell);
  const double smaller = std::min(grid.cell_width, grid.cell_height);
  grid.gap = smaller >= 14.0 ? 2.0 : smaller >= 7.0 ? 1.0 : 0.0;
  return grid;
}

/// The cells, one path per step, in units of cells: each is a stroke from its left to its right edge,
/// as thick as it is high, which takes a third of the letters of an outline.
std::string cell_paths(const HeatMap& map, const Grid& grid) {
  std::map<std::string, std::string> paths;
  const std::string palette = map.scale.palette == ColourScale::Palette::diverging ? "d" : "s";
  const std::string across = coordinate(1.0 - grid.gap / grid.cell_width);
  for (size_t row = 0; row < map.values.size(); ++row) {
    for (size_t column = 0; column < map.values[row].size(); ++column) {
      const double value = map.values[row][column];
      if (!std::isfinite(value)) continue;
      const bool is_zero = value == 0.0 && !map.scale.zero.empty();
      const std::string colour =
          is_zero ? "zero" : fmt::format("{}{}", palette, map.scale.step_of(value));
      paths[colour] += fmt::format("M{} {}h{}", column, row, across);
    }
  }
  std::string svg = fmt::format(
      "<g class=\"cells\" transform=\"translate({} {}) scale({} {})\" stroke-width=\"{}\">",
      coordinate(grid.left), coordinate(grid.top + (grid.cell_height - grid.gap) / 2.0),
      json_number(grid.cell_width), json_number(grid.cell_height),
      json_number(1.0 - grid.gap / grid.cell_height));
  for (const auto& [colour, path] : paths) {
    svg += fmt::format("<path class=\"{}\" d=\"{}\"/>", colour, path);
  }
  return svg + "</g>";
}

std::string label_elements(const HeatMap& map, const Grid& grid) {
  std::string svg;
  const double middle = (grid.cell_height - grid.gap) / 2.0;
  // As many labels as have room.
  const auto row_stride =
      static_cast<size_t>(std::max(1.0, std::ceil(13.0 / std::max(grid.cell_height, 0.1))));
  for (size_t row = 0; row < map.rows.size(); row += row_stride) {
    svg += fmt::format("<text class=\"tick end\" x=\"{}\" y=\"{}\" dy=\".32em\">{}</text>",
                       coordinate(grid.left - 8.0),
                       coordinate(grid.top + grid.cell_height * static_cast<double>(row) + middle),
                       escaped(map.rows[row]));
  }
  const double bottom = grid.top + grid.cell_height * static_cast<double>(map.values.size());
  size_t widest = 3;
  for (const std::string& label : map.columns) widest = std::max(widest, label.size());
  const double needed = kLetterWidth * static_cast<double>(widest) + 4.0;
  size_t stride = 1;
  for (const size_t candidate : {1, 2, 4, 5, 8, 10, 16, 20, 32, 50, 64, 100, 128}) {
    stride = candidate;
    if (grid.cell_width * static_cast<double>(candidate) >= needed) break;
  }
  std::vector<size_t> labelled = map.labelled_columns;
  if (labelled.empty()) {
    for (size_t column = 0; column < grid.columns; column += stride) labelled.push_back(column);
  }
  for (const size_t column : labelled) {
    const double x = grid.left + grid.cell_width * static_cast<double>(column) +
                     (grid.cell_width - grid.gap) / 2.0;
    svg += fmt::format(
        "<text class=\"tick middle\" x=\"{}\" y=\"{}\">{}</text>", coordinate(x),
        coordinate(bottom + 14.0),
        column < map.columns.size() ? escaped(map.columns[column]) : std::to_string(column));
  }
  return svg;
}

/// Values in thousandths, rows of all frames; the script draws them and shows them.
std::string values_text(const std::vector<std::vector<double>>& values) {
  std::string rows;
  for (const auto& row : values) {
    std::string cells;
    for (const double value : row) {
      if (!cells.empty()) cells += ",";
      cells += std::isfinite(value) ? fmt::format("{}", std::lround(value * 1000.0)) : "null";
    }
    rows += fmt::format("{}[{}]", rows.empty() ? "" : ",", cells);
  }
  return "[" + rows + "]";
}

std::string strings_text(const std::vector<std::string>& texts) {
  std::string items;
  for (const std::string& text : texts) {
    items += fmt::format("{}{}", items.empty() ? "" : ",", json_text(text));
  }
  return "[" + items + "]";
}

std::string island(const HeatMap& map, const Grid& grid) {
  std::string frames;
  for (const HeatMap::Frame& frame : map.frames) {
    frames += fmt::format("{}{{\"label\":{},\"values\":{}}}", frames.empty() ? "" : ",",
                          json_text(frame.label), values_text(frame.values));
  }
  const bool is_diverging = map.scale.palette == ColourScale::Palette::diverging;
  const std::string text = fmt::format(
      "{{\"row\":{},\"column\":{},\"value\":{},\"rows\":{},\"columns\":{},\"grid\":[{},{},{},{},{}]"
      ","
      "\"palette\":\"{}\",\"steps\":{},\"log\":{},\"low\":{},\"high\":{},\"zero\":{},\"label\":{},"
      "\"values\":{},\"frames\":[{}]}}",
      json_text(map.row_name), json_text(map.column_name), json_text(map.value_name),
      strings_text(map.rows), strings_text(map.columns), coordinate(grid.left),
      coordinate(grid.top), json_number(grid.cell_width), json_number(grid.cell_height),
      coordinate(grid.gap), is_diverging ? 'd' : 's', ColourScale::kSteps, map.scale.is_logarithmic,
      json_number(map.scale.low), json_number(map.scale.high), json_text(map.scale.zero),
      json_text(map.label), values_text(map.values), frames);
  return "<script type=\"application/json\">" + script_safe(text) + "</script>";
}

std::string slider(const HeatMap& map) {
  if (map.frames.size() < 2) return {};
  // Shown by the script, which makes it work.
  return fmt::format(
      "<div class=\"slider\" hidden><button type=\"button\">Play</button>"
      "<input type=\"range\" min=\"-1\" max=\"{}\" value=\"-1\" step=\"1\" "
      "aria-label=\"time: left end for the {}\"><output>{}</output></div>",
      map.frames.size() - 1, escaped(map.label), escaped(map.label));
}

// --- palettes ------------------------------------------------------------------------------------

struct Colour {
  double red, green, blue;
};

Colour from_hex(uint32_t hex) {
  return {static_cast<double>(hex >> 16U), static_cast<double>((hex >> 8U) & 0xFFU),
          static_cast<double>(hex & 0xFFU)};
}

/// The colour at `share` of the way along evenly spaced stops.
Colour along(const std::vector<uint32_t>& stops, double share) {
  const double place = share * static_cast<double>(stops.size() - 1);
  const auto i = std::min(static_cast<size_t>(place), stops.size() - 2);
  const double part = place - static_cast<double>(i);
  const Colour a = from_hex(stops[i]);
  const Colour b = from_hex(stops[i + 1]);
  return {a.red + part * (b.red - a.red), a.green + part * (b.green - a.green),
          a.blue + part * (b.blue - a.blue)};
}

std::string rules(std::string_view name, int steps, const std::vector<uint32_t>& stops) {
  std::string css;
  for (int step = 0; step < steps; ++step) {
    const Colour colour = along(stops, static_cast<double>(step) / (steps - 1));
    const std::string hex = fmt::format("#{:02x}{:02x}{:02x}", std::lround(colour.red),
                                        std::lround(colour.green), std::lround(colour.blue));
    css += fmt::format(".{0}{1}{{fill:{2};stroke:{2}}}", name, step, hex);
  }
  return css;
}

}  // namespace

int ColourScale::step_of(double value) const {
  const double share = (in_scale(*this, value) - low) / (high - low);
  return std::clamp(static_cast<int>(std::floor(share * kSteps)), 0, kSteps - 1);
}

ColourScale ColourScale::shares(const std::vector<std::vector<double>>& values) {
  double most = 0.0;
  for (const auto& row : values) {
    for (const double value : row) {
      if (std::isfinite(value)) most = std::max(most, value);
    }
  }
  ColourScale scale;
  scale.high = most > 0.0 ? most : 1.0;
  for (const Tick& tick : linear_axis(0.0, scale.high * 100.0, 4).ticks) {
    scale.ticks.push_back({tick.value / 100.0, tick.label + " %"});
  }
  return scale;
}

ColourScale ColourScale::ratios(const std::vector<std::vector<double>>& values) {
  double below = 1.0;
  double above = 1.0;
  for (const auto& row : values) {
    for (const double value : row) {
      if (!std::isfinite(value)) continue;
      below = std::min(below, value);
      above = std::max(above, value);
    }
  }
  ColourScale scale;
  scale.palette = Palette::diverging;
  scale.zero = "no token";
  const double distance = std::max(1.0 - below, above - 1.0);
  for (const int percent : {5, 10, 25, 50}) {
    const double reach = percent / 100.0;
    if (distance > reach * (1.0 + 1e-9)) continue;
    scale.low = 1.0 - reach;
    scale.high = 1.0 + reach;
    scale.ticks = {{scale.low, fmt::format("−{} %", percent)},
                   {1.0, "even"},
                   {scale.high, fmt::format("+{} %", percent)}};
    return scale;
  }
  scale.is_logarithmic = true;
  const double needed = std::max(std::log2(above), below > 0.0 ? -std::log2(below) : 0.0);
  const int reach = std::clamp(static_cast<int>(std::ceil(needed - 0.5)), 1, 3);
  scale.low = -reach;
  scale.high = reach;
  for (int power = -reach; power <= reach; ++power) {
    const std::string label =
        power == 0 ? "even" : fmt::format("{}{}", power < 0 ? "÷" : "×", 1 << std::abs(power));
    scale.ticks.push_back({std::exp2(power), label});
  }
  return scale;
}

std::string heat_legend(const ColourScale& scale, const std::string& value_name) {
  constexpr double kWidth = 260.0;
  constexpr double kBar = 10.0;
  constexpr double kMargin = 22.0;
  const char palette = scale.palette == ColourScale::Palette::diverging ? 'd' : 's';
  std::string svg;
  const double step = kWidth / ColourScale::kSteps;
  for (int i = 0; i < ColourScale::kSteps; ++i) {
    svg += fmt::format("<rect class=\"{}{}\" x=\"{}\" y=\"0\" width=\"{}\" height=\"{}\"/>",
                       palette, i, coordinate(kMargin + step * i), coordinate(step + 0.3), kBar);
  }
  for (const Tick& tick : scale.ticks) {
    const double share =
        std::clamp((in_scale(scale, tick.value) - scale.low) / (scale.high - scale.low), 0.0, 1.0);
    svg += fmt::format("<text class=\"tick middle\" x=\"{}\" y=\"24\">{}</text>",
                       coordinate(kMargin + kWidth * share), escaped(tick.label));
  }
  double width = kWidth + 2.0 * kMargin;
  if (!scale.zero.empty()) {
    svg += fmt::format(
        "<rect class=\"zero\" x=\"{}\" y=\"0\" width=\"16\" height=\"{}\"/>"
        "<text class=\"tick\" x=\"{}\" y=\"9\">{}</text>",
        coordinate(width), kBar, coordinate(width + 22.0), escaped(scale.zero));
    width += 30.0 + kLetterWidth * static_cast<double>(scale.zero.size());
  }
  return fmt::format(
      "<div class=\"scale\"><span>{}</span><svg viewBox=\"0 0 {} 28\" width=\"{}\" height=\"28\" "
      "role=\"img\" aria-label=\"colour scale\">{}</svg></div>",
      escaped(value_name), coordinate(width), coordinate(width), svg);
}

std::string heat_map(const HeatMap& map) {
  const Grid grid = make_grid(map);
  if (grid.columns == 0) return {};
  const double height = grid.top + grid.cell_height * static_cast<double>(map.values.size()) + 34.0;
  const double drawn = grid.left + grid.cell_width * static_cast<double>(grid.columns) + 6.0;
  const double width = std::min(map.width, std::max(drawn, 120.0));
  std::string figure = fmt::format("<figure class=\"chart heat\" id=\"{}\"><figcaption><h3>{}</h3>",
                                   escaped(map.id), escaped(map.title));
  if (!map.note.empty()) figure += fmt::format("<p>{}</p>", escaped(map.note));
  figure += "</figcaption>";
  if (map.has_legend) figure += heat_legend(map.scale, map.value_name);
  figure += slider(map) + "<div class=\"canvas\">";
  figure += fmt::format(
      "<svg class=\"plot map\" viewBox=\"0 0 {0} {1}\" style=\"max-width:{0}px\" role=\"img\" "
      "aria-labelledby=\"{2}-t {2}-d\"><title id=\"{2}-t\">{3}</title><desc id=\"{2}-d\">{4}</desc>"
      "{5}{6}<text class=\"name\" x=\"1\" y=\"11\">{10}</text>"
      "<text class=\"name end\" x=\"{7}\" y=\"{8}\">{9}</text></svg>",
      coordinate(width), coordinate(height), escaped(map.id), escaped(map.title),
      escaped(
          fmt::format("{} by {}: {}. {}", map.row_name, map.column_name, map.value_name, map.note)),
      cell_paths(map, grid), label_elements(map, grid), coordinate(drawn - 6.0 - grid.gap),
      coordinate(height - 5.0), escaped(map.column_name), escaped(map.row_name));
  return figure + island(map, grid) + "</div></figure>";
}

std::string palette_rules(bool is_dark) {
  // Both rise or fall in lightness all the way, so they can be read in grey and by colour-blind
  // readers; the diverging one goes from blue to orange.
  const std::vector<uint32_t> light = {0xEFF3F4, 0xCBE0E3, 0x93C3CC, 0x5A9FB4,
                                       0x317A9B, 0x1B5280, 0x14305A};
  const std::vector<uint32_t> dark = {0x20272D, 0x1F3B4C, 0x225A70, 0x2C7F8E,
                                      0x4FA69B, 0x94CBA3, 0xE6EEB5};
  const std::vector<uint32_t> light_diverging = {0x134B86, 0x3F7FB5, 0x8DB8D8, 0xCADDE9, 0xF1F1EF,
                                                 0xF6D9B8, 0xEFAF6E, 0xCF7526, 0x8A4108};
  const std::vector<uint32_t> dark_diverging = {0x7CC0F5, 0x4B97D3, 0x2F6CA0, 0x264763, 0x2A3036,
                                                0x5A4026, 0x96611F, 0xD08A32, 0xFFC473};
  return rules("s", ColourScale::kSteps, is_dark ? dark : light) +
         rules("d", ColourScale::kSteps, is_dark ? dark_diverging : light_diverging);
}

}  // namespace sluice::report
