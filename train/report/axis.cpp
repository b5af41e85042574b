#include "train/report/axis.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

namespace sluice::report {
namespace {

/// 1, 2 or 5 times a power of ten, the nearest above `rough`.
double nice_step(double rough) {
  const double power = std::pow(10.0, std::floor(std::log10(rough)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (factor * power >= rough * (1.0 - 1e-9)) return factor * power;
  }
  return 10.0 * power;
}

/// The exponent in superscript digits.
std::string superscript(int exponent) {
  constexpr std::array<std::string_view, 10> kDigits = {"⁰", "¹", "²", "³", "⁴",
                                                        "⁵", "⁶", "⁷", "⁸", "⁹"};
  std::string text = exponent < 0 ? "⁻" : "";
  for (const char digit : std::to_string(std::abs(exponent))) {
    text += kDigits[static_cast<size_t>(digit - '0')];
  }
  return text;
}

std::string in_powers(double value) {
  const int exponent = static_cast<int>(std::floor(std::log10(std::abs(value)) + 1e-9));
  const double mantissa = value / std::pow(10.0, exponent);
  if (std::abs(mantissa - 1.0) < 1e-9) return "10" + superscript(exponent);
  return fmt::format("{:g}×10{}", std::round(mantissa * 100.0) / 100.0, superscript(exponent));
}

/// `value`, one of several labels `step` apart the largest of which is `largest`.
std::string label_of(double value, double step, double largest) {
  struct Unit {
    double size;
    std::string_view sign;
  };
  constexpr std::array<Unit, 3> kUnits = {{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}}};
  constexpr double kSmallestPlain = 1e-4;
  if (std::abs(value) < step * 1e-6) return "0";
  if (step < kSmallestPlain && largest < 10.0 * kSmallestPlain) return in_powers(value);
  double size = 1.0;
  std::string_view sign;
  if (largest >= 1e4) {
    for (const Unit& unit : kUnits) {
      if (largest >= unit.size) {
        size = unit.size;
        sign = unit.sign;
        break;
      }
    }
  }
  const int decimals = std::max(0, static_cast<int>(std::ceil(-std::log10(step / size) - 1e-9)));
  return fmt::format("{:.{}f}{}", value / size, std::min(decimals, 9), sign);
}

void add_linear_ticks(Axis& axis, int count) {
  const double step = nice_step((axis.high - axis.low) / std::max(count, 1));
  const double slack = step * 1e-6;
  const double largest = std::max(std::abs(axis.low), std::abs(axis.high));
  for (double i = std::ceil((axis.low - slack) / step); i * step <= axis.high + slack; i += 1.0) {
    axis.ticks.push_back({i * step, label_of(i * step, step, largest)});
  }
}

}  // namespace

double Axis::share(double value) const {
  if (!is_logarithmic) return (value - low) / (high - low);
  return std::log(std::max(value, low * 1e-3) / low) / std::log(high / low);
}

Axis linear_axis(double low, double high, int count) {
  if (!(high > low)) {
    const double room = std::max(std::abs(low) * 0.05, 1e-3);
    low -= room;
    high += room;
  }
  Axis axis{.low = low, .high = high};
  add_linear_ticks(axis, count);
  return axis;
}

Axis logarithmic_axis(double low, double high, int count) {
  if (!(high > low * (1.0 + 1e-6))) {
    low /= 1.05;
    high *= 1.05;
  }
  Axis axis{.low = low, .high = high, .is_logarithmic = true};
  const double decades = std::log10(high / low);
  if (decades < 0.7) {
    add_linear_ticks(axis, count);
    return axis;
  }
  const std::vector<double> within =
      decades > 2.5 ? std::vector<double>{1.0} : std::vector<double>{1.0, 2.0, 5.0};
  const double stride = std::max(1.0, std::ceil(decades / std::max(count, 1)));
  for (double power = std::floor(std::log10(low)); power <= std::log10(high); power += 1.0) {
    if (within.size() == 1 && std::fmod(power, stride) != 0.0) continue;
    for (const double factor : within) {
      const double value = factor * std::pow(10.0, power);
      if (value < low * (1.0 - 1e-9) || value > high * (1.0 + 1e-9)) continue;
      axis.ticks.push_back({value, label_of(value, value, value)});
    }
  }
  return axis;
}

Axis value_axis(double low, double high, int count) {
  constexpr double kNearZero = 0.35;  // of the highest value
  constexpr double kRoom = 0.05;      // of the range
  if (low >= 0.0 && high > 0.0 && low < kNearZero * high) {
    return linear_axis(0.0, high * (1.0 + kRoom), count);
  }
  const double room = kRoom * (high - low);
  return linear_axis(low - room, high + room, count);
}

}  // namespace sluice::report
