#include "train/report/bar_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "train/report/axis.h"
#include "train/report/text.h"

namespace sluice::report {
namespace {

constexpr double kLetterWidth = 6.8;
constexpr double kRow = 26.0;
constexpr double kBarHeight = 15.0;

double text_width(size_t letters) { return kLetterWidth * static_cast<double>(letters); }

/// Where values lie: from `left` on, over `room`.
struct Place {
  double left = 0.0;
  double room = 0.0;
  Axis axis;
  [[nodiscard]] double operator()(double value) const {
    return left + room * std::clamp(axis.share(value), 0.0, 1.0);
  }
};

Place place_of(const BarChart& chart) {
  size_t longest_name = 0;
  size_t longest_text = 0;
  double low = std::numeric_limits<double>::infinity();
  double high = -low;
  for (const Bar& bar : chart.bars) {
    longest_name = std::max(longest_name, bar.name.size());
    longest_text = std::max(longest_text, bar.text.size());
    if (!std::isfinite(bar.value)) continue;
    low = std::min(low, bar.value - bar.spread);
    high = std::max(high, bar.value + bar.spread);
  }
  Place place{.left = 10.0 + text_width(longest_name)};
  place.room = std::max(chart.width - place.left - 14.0 - text_width(longest_text), 40.0);
  if (!(low <= high)) low = high = 0.0;
  if (chart.begins_at_zero) {
    place.axis = Axis{.low = 0.0, .high = high > 0.0 ? high : 1.0};
  } else {
    const double margin = 0.08 * (high - low);
    place.axis = linear_axis(low - margin, high + margin, 3);
  }
  return place;
}

std::string ticks(const Place& place, double bottom) {
  std::string svg;
  for (const Tick& tick : place.axis.ticks) {
    const std::string x = coordinate(place(tick.value));
    svg += fmt::format(
        "<line class=\"grid\" x1=\"{0}\" x2=\"{0}\" y1=\"2\" y2=\"{1}\"/>"
        "<text class=\"tick middle\" x=\"{0}\" y=\"{2}\">{3}</text>",
        x, coordinate(bottom), coordinate(bottom + 14.0), escaped(tick.label));
  }
  return svg;
}

std::string bar_elements(const Bar& bar, const Place& place, bool begins_at_zero, double y) {
  const std::string middle = coordinate(y + kBarHeight / 2.0);
  std::string svg = fmt::format("<text class=\"tick end\" x=\"{}\" y=\"{}\" dy=\".32em\">{}</text>",
                                coordinate(place.left - 8.0), middle, escaped(bar.name));
  double end = place.left;
  if (std::isfinite(bar.value)) {
    end = place(bar.value);
    if (begins_at_zero) {
      svg += fmt::format(
          "<rect class=\"bar {}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"1.5\"/>",
          bar.colour, coordinate(place.left), coordinate(y),
          coordinate(std::max(end - place.left, 1.0)), coordinate(kBarHeight));
    }
    const double low = place(bar.value - bar.spread);
    const double high = place(bar.value + bar.spread);
    if (bar.spread > 0.0) {
      svg += fmt::format("<path class=\"whisker\" d=\"M{0} {1}H{2}M{0} {3}v6M{2} {3}v6\"/>",
                         coordinate(low), middle, coordinate(high),
                         coordinate(y + kBarHeight / 2.0 - 3.0));
    }
    if (!begins_at_zero) {
      svg += fmt::format("<circle class=\"dot {}\" cx=\"{}\" cy=\"{}\" r=\"5\"/>", bar.colour,
                         coordinate(end), middle);
    }
    end = std::max(end, high) + (begins_at_zero ? 0.0 : 4.0);
  }
  return svg + fmt::format("<text class=\"value\" x=\"{}\" y=\"{}\" dy=\".32em\">{}</text>",
                           coordinate(end + 7.0), middle, escaped(bar.text));
}

}  // namespace

std::string bar_chart(const BarChart& chart) {
  if (chart.bars.empty()) return {};
  const Place place = place_of(chart);
  const double bottom = 4.0 + kRow * static_cast<double>(chart.bars.size());
  std::string svg = ticks(place, bottom);
  double y = 4.0;
  for (const Bar& bar : chart.bars) {
    svg += bar_elements(bar, place, chart.begins_at_zero, y);
    y += kRow;
  }
  const double height = place.axis.ticks.empty() ? bottom : bottom + 20.0;
  return fmt::format(
      "<figure class=\"chart bars\" id=\"{0}\"><figcaption><h3>{1}</h3><p>{2}</p></figcaption>"
      "<div class=\"canvas\"><svg class=\"plot\" viewBox=\"0 0 {3} {4}\" role=\"img\" "
      "aria-labelledby=\"{0}-t {0}-d\"><title id=\"{0}-t\">{1}</title><desc id=\"{0}-d\">{2}</desc>"
      "{5}</svg></div></figure>",
      escaped(chart.id), escaped(chart.title), escaped(chart.note), coordinate(chart.width),
      coordinate(height), svg);
}

}  // namespace sluice::report
