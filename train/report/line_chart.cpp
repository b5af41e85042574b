#include "train/report/line_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string_view>

#include "train/report/axis.h"
#include "train/report/text.h"

namespace sluice::report {
namespace {

struct Range {
  double low = std::numeric_limits<double>::infinity();
  double high = -std::numeric_limits<double>::infinity();
  void add(double value) {
    if (!std::isfinite(value)) return;
    low = std::min(low, value);
    high = std::max(high, value);
  }
  [[nodiscard]] bool empty() const { return !(low <= high); }
};

/// Where the plot lies in the drawing, and its axes.
struct Frame {
  double left = 0.0, top = 0.0, width = 0.0, height = 0.0;
  Axis x;
  Axis y;
  [[nodiscard]] double place_x(double value) const { return left + width * x.share(value); }
  [[nodiscard]] double place_y(double value) const {
    return top + height * (1.0 - std::clamp(y.share(value), -0.05, 1.05));
  }
  [[nodiscard]] double right() const { return left + width; }
  [[nodiscard]] double bottom() const { return top + height; }
};

constexpr double kLetterWidth = 6.6;  // of 12 px text, about
constexpr double kLineHeight = 15.0;
constexpr double kWide = 800.0;  // such a drawing is scrolled, not shrunk, on a small screen

/// Letters, not bytes.
size_t letters(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string path_of(const std::vector<Point>& points, const Frame& frame) {
  std::string path;
  bool is_down = false;
  for (const Point& point : points) {
    if (!std::isfinite(point.y)) {
      is_down = false;
      continue;
    }
    path += fmt::format("{}{} {}", is_down ? 'L' : 'M', coordinate(frame.place_x(point.x)),
                        coordinate(frame.place_y(point.y)));
    is_down = true;
  }
  return path;
}

std::string_view class_of(Line::Look look) {
  switch (look) {
    case Line::Look::strong:
      return "line strong";
    case Line::Look::faint:
      return "line faint";
    case Line::Look::plain:
    case Line::Look::dots:
      break;
  }
  return "line";
}

std::string line_element(const Line& line, const Frame& frame) {
  std::string element = fmt::format("<path class=\"{} {}\" d=\"{}\"/>", class_of(line.look),
                                    line.colour, path_of(line.points, frame));
  // A lone point between gaps has no line of its own.
  const bool is_lone = line.points.size() == 1;
  if (line.look == Line::Look::dots || is_lone) {
    for (const Point& point : line.points) {
      if (!std::isfinite(point.y)) continue;
      element +=
          fmt::format("<circle class=\"dot {}\" cx=\"{}\" cy=\"{}\" r=\"3.2\"/>", line.colour,
                      coordinate(frame.place_x(point.x)), coordinate(frame.place_y(point.y)));
    }
  }
  return element;
}

std::string band_element(const Band& band, const Frame& frame) {
  std::vector<Point> outline = band.low;
  outline.insert(outline.end(), band.high.rbegin(), band.high.rend());
  std::erase_if(outline, [](const Point& point) { return !std::isfinite(point.y); });
  if (outline.empty()) return {};
  return fmt::format("<path class=\"band {}\" d=\"{}Z\"/>", band.colour, path_of(outline, frame));
}

std::string axes_elements(const LineChart& chart, const Frame& frame) {
  std::string svg;
  for (const Tick& tick : frame.y.ticks) {
    const std::string y = coordinate(frame.place_y(tick.value));
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>"
        "<text class=\"tick end\" x=\"{}\" y=\"{}\" dy=\".32em\">{}</text>",
        coordinate(frame.left), coordinate(frame.right()), y, y, coordinate(frame.left - 8.0), y,
        escaped(tick.label));
  }
  const std::string bottom = coordinate(frame.bottom());
  for (const Tick& tick : frame.x.ticks) {
    const std::string x = coordinate(frame.place_x(tick.value));
    svg += fmt::format(
        "<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>"
        "<text class=\"tick middle\" x=\"{}\" y=\"{}\">{}</text>",
        x, x, bottom, coordinate(frame.bottom() + 4.0), x, coordinate(frame.bottom() + 18.0),
        escaped(tick.label));
  }
  svg += fmt::format(
      "<line class=\"axis\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>"
      "<text class=\"name end\" x=\"{}\" y=\"{}\">{}</text>"
      "<text class=\"name\" x=\"{}\" y=\"{}\">{}</text>",
      coordinate(frame.left), coordinate(frame.right()), bottom, bottom, coordinate(frame.right()),
      coordinate(frame.bottom() + 34.0), escaped(chart.x_label), coordinate(2.0),
      coordinate(frame.top - 12.0), escaped(chart.y_label));
  return svg;
}

std::optional<Point> last_finite(const std::vector<Point>& points) {
  for (auto point = points.rbegin(); point != points.rend(); ++point) {
    if (std::isfinite(point->y)) return *point;
  }
  return std::nullopt;
}

struct Label {
  double y = 0.0;
  const Line* line = nullptr;
};

/// Names at the right ends, pushed apart where they would overlap.
std::string end_labels(const LineChart& chart, const Frame& frame) {
  std::vector<Label> labels;
  for (const Line& line : chart.lines) {
    const auto last = last_finite(line.points);
    if (line.is_labelled && last) labels.push_back({frame.place_y(last->y), &line});
  }
  std::ranges::stable_sort(labels, {}, &Label::y);
  for (size_t i = 1; i < labels.size(); ++i) {
    labels[i].y = std::max(labels[i].y, labels[i - 1].y + kLineHeight);
  }
  double floor = frame.bottom() - 2.0;
  for (size_t i = labels.size(); i-- > 0;) {
    labels[i].y = std::min(labels[i].y, floor);
    floor = labels[i].y - kLineHeight;
  }
  std::string svg;
  for (const Label& label : labels) {
    svg += fmt::format("<text class=\"label {}\" x=\"{}\" y=\"{}\" dy=\".32em\">{}</text>",
                       label.line->colour, coordinate(frame.right() + 9.0), coordinate(label.y),
                       escaped(label.line->name));
  }
  return svg;
}

std::string level_elements(const LineChart& chart, const Frame& frame) {
  std::string svg;
  for (const LineChart::Level& level : chart.levels) {
    if (level.y < frame.y.low || level.y > frame.y.high) continue;
    const std::string y = coordinate(frame.place_y(level.y));
    svg += fmt::format(
        "<line class=\"level\" x1=\"{}\" x2=\"{}\" y1=\"{}\" y2=\"{}\"/>"
        "<text class=\"tick\" x=\"{}\" y=\"{}\">{}</text>",
        coordinate(frame.left), coordinate(frame.right()), y, y, coordinate(frame.left + 6.0),
        coordinate(frame.place_y(level.y) - 5.0), escaped(level.name));
  }
  return svg;
}

std::string drawing(const LineChart& chart, const Frame& frame, std::string_view variant) {
  const std::string id = fmt::format("{}-{}", chart.id, variant);
  std::string svg = fmt::format(
      "<svg class=\"plot {0}{15}\" viewBox=\"0 0 {1} {2}\" role=\"img\" aria-labelledby=\"{3}-t "
      "{3}-d\" "
      "data-frame=\"{4} {5} {6} {7}\" data-x=\"{8} {9}\" data-y=\"{10} {11} {12}\">"
      "<title id=\"{3}-t\">{13}</title><desc id=\"{3}-d\">{14}</desc>",
      variant, coordinate(chart.width), coordinate(chart.height), escaped(id),
      coordinate(frame.left), coordinate(frame.top), coordinate(frame.width),
      coordinate(frame.height), frame.x.low, frame.x.high, frame.y.low, frame.y.high,
      frame.y.is_logarithmic ? "log" : "linear", escaped(chart.title), escaped(chart.note),
      chart.width > kWide ? " wide" : "");
  svg += axes_elements(chart, frame);
  for (const Band& band : chart.bands) svg += band_element(band, frame);
  svg += level_elements(chart, frame);
  for (const Line& line : chart.lines) svg += line_element(line, frame);
  svg += end_labels(chart, frame);
  return svg + "</svg>";
}

Frame make_frame(const LineChart& chart, const Range& x, const Range& y, bool is_logarithmic) {
  constexpr double kTop = 34.0;
  constexpr double kBottom = 40.0;
  size_t longest = 0;
  for (const Line& line : chart.lines) {
    if (line.is_labelled) longest = std::max(longest, letters(line.name));
  }
  Frame frame;
  const int x_ticks = std::max(3, static_cast<int>(chart.width / 100.0));
  const int y_ticks = std::max(3, static_cast<int>(chart.height / 56.0));
  // The first record or evaluation comes some steps after the beginning of the run.
  const bool begins_near_zero = x.low >= 0.0 && x.low <= 0.5 * x.high;
  frame.x = linear_axis(begins_near_zero ? 0.0 : x.low, x.high, x_ticks);
  if (is_logarithmic) {
    const double room = std::pow(y.high / y.low, 0.04);
    frame.y = logarithmic_axis(y.low / room, y.high * room, y_ticks);
  } else {
    frame.y = chart.starts_at_zero ? linear_axis(std::min(0.0, y.low), y.high * 1.05, y_ticks)
                                   : value_axis(y.low, y.high, y_ticks);
  }
  size_t widest = 0;
  for (const Tick& tick : frame.y.ticks) widest = std::max(widest, letters(tick.label));
  frame.left = std::max(36.0, 16.0 + kLetterWidth * static_cast<double>(widest));
  frame.top = kTop;
  const double labels = longest == 0 ? 14.0 : 18.0 + kLetterWidth * static_cast<double>(longest);
  frame.width = chart.width - frame.left - labels;
  frame.height = chart.height - kTop - kBottom;
  return frame;
}

std::string legend(const LineChart& chart) {
  std::string items;
  if (chart.lines.size() < 2) return items;  // the title names it
  for (const Line& line : chart.lines) {
    if (line.is_labelled || line.name.empty()) continue;
    items +=
        fmt::format("<li><i class=\"key {} {}\"></i>{}</li>",
                    line.look == Line::Look::faint ? "faint" : "", line.colour, escaped(line.name));
  }
  return items.empty() ? items : "<ul class=\"legend\">" + items + "</ul>";
}

/// The values, for the script.
std::string island(const LineChart& chart) {
  std::string lines;
  for (const Line& line : chart.lines) {
    std::string points;
    for (const Point& point : line.points) {
      if (!std::isfinite(point.y)) continue;
      points += fmt::format("{}{},{}", points.empty() ? "" : ",", json_number(point.x),
                            json_number(point.y));
    }
    if (!lines.empty()) lines += ",";
    lines += fmt::format("{{\"name\":{},\"colour\":\"{}\",\"points\":[{}]}}", json_text(line.name),
                         line.colour, points);
  }
  return fmt::format("<script type=\"application/json\">{{\"x\":{},\"lines\":[{}]}}</script>",
                     script_safe(json_text(chart.x_label)), script_safe(lines));
}

/// Some of the values, for readers who do not see the drawing.
std::string table(const LineChart& chart) {
  constexpr size_t kRows = 12;
  std::string rows;
  for (const Line& line : chart.lines) {
    std::vector<Point> points = line.points;
    std::erase_if(points, [](const Point& point) { return !std::isfinite(point.y); });
    if (points.empty()) continue;
    std::string cells;
    for (size_t i = 0; i < std::min(kRows, points.size()); ++i) {
      const size_t at = points.size() <= kRows ? i : i * (points.size() - 1) / (kRows - 1);
      cells += fmt::format("<td>{}<small>{}</small></td>", readable(points[at].y),
                           readable(points[at].x));
    }
    rows += fmt::format("<tr><th scope=\"row\">{}</th>{}</tr>", escaped(line.name), cells);
  }
  return fmt::format(
      "<details><summary>Values</summary><div class=\"scroll\"><table class=\"values\">"
      "<caption>{}, with the {} below each value</caption>{}</table></div></details>",
      escaped(chart.y_label), escaped(chart.x_label), rows);
}

}  // namespace

std::string category_colour(size_t index) {
  constexpr size_t kColours = 8;
  return fmt::format("c{}{}", index % kColours, index < kColours ? "" : " dash");
}

std::string ordered_colour(size_t index, size_t count) {
  constexpr size_t kColours = 10;
  return fmt::format("q{}", count <= 1 ? 3 : index * (kColours - 1) / (count - 1));
}

std::string line_chart(const LineChart& chart) {
  Range x;
  Range y;
  const auto add = [&](const std::vector<Point>& points) {
    for (const Point& point : points) {
      if (!std::isfinite(point.y)) continue;
      x.add(point.x);
      y.add(point.y);
    }
  };
  for (const Line& line : chart.lines) add(line.points);
  for (const Band& band : chart.bands) {
    add(band.low);
    add(band.high);
  }
  if (y.empty()) return {};
  const bool has_switch = chart.can_be_logarithmic && y.low > 0.0;
  std::string figure =
      fmt::format("<figure class=\"chart\" id=\"{}\"><figcaption><h3>{}</h3><p>{}</p></figcaption>",
                  escaped(chart.id), escaped(chart.title), escaped(chart.note));
  if (has_switch) {
    figure += fmt::format(
        "<input class=\"switch\" type=\"checkbox\" id=\"{0}-switch\">"
        "<label for=\"{0}-switch\">logarithmic</label>",
        escaped(chart.id));
  }
  figure += legend(chart) + "<div class=\"canvas\">" +
            drawing(chart, make_frame(chart, x, y, false), "linear");
  if (has_switch) figure += drawing(chart, make_frame(chart, x, y, true), "log");
  return figure + island(chart) + "</div>" + table(chart) + "</figure>";
}

}  // namespace sluice::report
