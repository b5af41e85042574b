#include "bench/report/figure_text.h"

#include <fmt/format.h>

#include <array>
#include <cmath>
#include <string_view>

#include "bench/report/benchmark_results.h"

namespace sluice::bench {
namespace {

constexpr std::array<std::string_view, 2> kGigaRates = {"FLOP/s", "bytes/s"};

/// Where the unit of a rate starts in the name; npos for all else.
size_t rate_at(std::string_view name) {
  for (const std::string_view unit : kGigaRates) {
    if (name.ends_with(unit)) return name.size() - unit.size();
  }
  return std::string_view::npos;
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
  const size_t at = rate_at(name);
  return at == std::string::npos ? name : name.substr(0, at) + "G" + name.substr(at);
}

std::string figure_text(const std::string& name, double value) {
  if (name == kTime) return time_text(value);
  if (rate_at(name) != std::string::npos) return three_digits(value * 1e-9);
  if (is_part(name)) return fmt::format("{:.1f} %", 100.0 * value);
  return three_digits(value);
}

}  // namespace sluice::bench
