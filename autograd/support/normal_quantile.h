#pragma once
// The quantile function of the normal distribution.

#include <cmath>

namespace sluice {

/// Phi^-1(p), p in (0, 1), by bisection.
[[nodiscard]] inline double normal_quantile(double p) {
  double low = -40.0;
  double high = 40.0;
  while (true) {
    const double middle = low + (high - low) / 2.0;
    const double below = std::erfc(-middle / std::sqrt(2.0)) / 2.0;
    if (below == p || middle <= low || middle >= high) return middle;
    (below < p ? low : high) = middle;
  }
}

}  // namespace sluice
