#include "bench/report/figure_text.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <string_view>

#include "bench/report/benchmark_results.h"

namespace sluice::bench {
namespace {

struct Rate {
  std::string_view unit;  // how such a name ends
  std::string_view in_g;  // what is written
};
constexpr std::array<Rate, 2> kRates = {{{"FLOP/s", "GFLOP/s"}, {"bytes/s", "GB/s"}}};

/// Null for all else.
const Rate* rate_of(std::string_view name) {
  for (const Rate& rate : kRates) {
    if (name.ends_with(rate.unit)) return &rate;
  }
  return nullptr;
}

bool is_part(std::string_view name) { return name.ends_with("of_peak") || name.ends_with("share"); }

/// At least three digits, and never an exponent: 0.0123, 1.23, 12.3, 12345.
std::string three_digits(double value) {
  if (value == 0.0 || !std::isfinite(value)) return fmt::format("{}", value);
  const int before_point = static_cast<int>(std::floor(std::log10(std::abs(value)))) + 1;
  return fmt::format("{:.{}f}", value, std::max(0, 3 - before_point));
}

}  // namespace

std::string time_text(double seconds) {
  if (seconds < 1e-6) return three_digits(seconds * 1e9) + " ns";
  if (seconds < 1e-3) return three_digits(seconds * 1e6) + " us";
  if (seconds < 1.0) return three_digits(seconds * 1e3) + " ms";
  return three_digits(seconds) + " s";
}

std::string figure_heading(const std::string& name) {
  const Rate* rate = rate_of(name);
  if (rate == nullptr) return name;
  return name.substr(0, name.size() - rate->unit.size()).append(rate->in_g);
}

std::string figure_text(const std::string& name, double value) {
  if (name == kTime) return time_text(value);
  if (rate_of(name) != nullptr) return three_digits(value * 1e-9);
  if (is_part(name)) return fmt::format("{:.1f} %", 100.0 * value);
  return three_digits(value);
}

}  // namespace sluice::bench
