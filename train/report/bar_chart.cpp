#include "train/report/bar_chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "train/report/text.h"

namespace sluice::report {
namespace {

constexpr double kLetterWidth = 6.8;
constexpr double kRow = 26.0;
constexpr double kBarHeight = 15.0;

double text_width(size_t letters) { return kLetterWidth * static_cast<double>(letters); }

}  // namespace

std::string bar_chart(const BarChart& chart) {
  if (chart.bars.empty()) return {};
  size_t longest_name = 0;
  size_t longest_text = 0;
  double most = 0.0;
  for (const Bar& bar : chart.bars) {
    longest_name = std::max(longest_name, bar.name.size());
    longest_text = std::max(longest_text, bar.text.size());
    if (std::isfinite(bar.value)) most = std::max(most, bar.value + bar.spread);
  }
  const double left = 10.0 + text_width(longest_name);
  const double room = std::max(chart.width - left - 14.0 - text_width(longest_text), 40.0);
  std::string svg;
  double y = 4.0;
  for (const Bar& bar : chart.bars) {
    const auto across = [&](double value) {
      return most > 0.0 ? room * std::clamp(value / most, 0.0, 1.0) : 0.0;
    };
    const double length = std::isfinite(bar.value) ? across(bar.value) : 0.0;
    const std::string middle = coordinate(y + kBarHeight / 2.0);
    svg += fmt::format(
        "<text class=\"tick end\" x=\"{}\" y=\"{}\" dy=\".32em\">{}</text>"
        "<rect class=\"bar {}\" x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\" rx=\"1.5\"/>",
        coordinate(left - 8.0), middle, escaped(bar.name), bar.colour, coordinate(left),
        coordinate(y), coordinate(std::max(length, 1.0)), coordinate(kBarHeight));
    double end = left + length;
    if (bar.spread > 0.0) {
      const double low = left + across(bar.value - bar.spread);
      end = left + across(bar.value + bar.spread);
      svg += fmt::format("<path class=\"whisker\" d=\"M{0} {1}H{2}M{0} {3}v6M{2} {3}v6\"/>",
                         coordinate(low), middle, coordinate(end),
                         coordinate(y + kBarHeight / 2.0 - 3.0));
    }
    svg += fmt::format("<text class=\"value\" x=\"{}\" y=\"{}\" dy=\".32em\">{}</text>",
                       coordinate(end + 7.0), middle, escaped(bar.text));
    y += kRow;
  }
  return fmt::format(
      "<figure class=\"chart bars\" id=\"{0}\"><figcaption><h3>{1}</h3><p>{2}</p></figcaption>"
      "<div class=\"canvas\"><svg class=\"plot\" viewBox=\"0 0 {3} {4}\" role=\"img\" "
      "aria-labelledby=\"{0}-t {0}-d\"><title id=\"{0}-t\">{1}</title><desc id=\"{0}-d\">{2}</desc>"
      "{5}</svg></div></figure>",
      escaped(chart.id), escaped(chart.title), escaped(chart.note), coordinate(chart.width),
      coordinate(y), svg);
}

}  // namespace sluice::report
