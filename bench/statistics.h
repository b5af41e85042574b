#pragma once
// Order statistics of repeated measurements.

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

namespace sluice::bench {

/// The value below which a share q (0 to 1) of the values lies, linear between neighbours; 0 of
/// nothing.
[[nodiscard]] inline double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0.0;
  std::sort(values.begin(), values.end());
  const double at = q * static_cast<double>(values.size() - 1);
  const auto below = static_cast<size_t>(at);
  const size_t above = std::min(below + 1, values.size() - 1);
  return std::lerp(values[below], values[above], at - static_cast<double>(below));
}

[[nodiscard]] inline double median(std::vector<double> values) {
  return quantile(std::move(values), 0.5);
}

}  // namespace sluice::bench
