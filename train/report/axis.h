#pragma once
// From values to places, and where to put ticks.

#include <string>
#include <vector>

namespace sluice::report {

struct Tick {
  double value = 0.0;
  std::string label;
};

struct Axis {
  double low = 0.0;
  double high = 1.0;  // greater than low; both positive on a logarithmic axis
  bool is_logarithmic = false;
  std::vector<Tick> ticks;  // rising, within [low, high]

  /// 0 at low, 1 at high.
  [[nodiscard]] double share(double value) const;
};

/// About `count` ticks at multiples of 1, 2 or 5 times a power of ten, over [low, high]; a range of
/// no length is widened.
[[nodiscard]] Axis linear_axis(double low, double high, int count = 5);

/// Ticks at powers of ten, with 2 and 5 between them when there are few, or linear ticks where even
/// those are. low must be positive.
[[nodiscard]] Axis logarithmic_axis(double low, double high, int count = 5);

/// An axis for values from `low` to `high` that begins at zero when they come near to it, and else
/// leaves a little room.
[[nodiscard]] Axis value_axis(double low, double high, int count = 5);

}  // namespace sluice::report
