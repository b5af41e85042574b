#pragma once
// Initial step sizes of state-space layers (Gu and Dao 2023, "Mamba", section 3.6 and its code).

#include <algorithm>
#include <cmath>
#include <string>

#include "autograd/support/error.h"
#include "autograd/support/fields.h"

namespace sluice {

/// The range that step sizes start in; part of a mixer's section.
struct StepSizeConfig {
  double smallest = 1e-3;
  double largest = 0.1;
  double floor = 1e-4;

  void fields(FieldVisitor& v) {
    v.number({"time_step_min", "smallest step size at the start"}, smallest,
             {.min = 0.0, .exclusive_min = true});
    v.number({"time_step_max", "largest step size at the start"}, largest,
             {.min = 0.0, .exclusive_min = true});
    v.number({"time_step_floor", "what initial step sizes are raised to"}, floor,
             {.min = 0.0, .exclusive_min = true});
  }
  [[nodiscard]] std::string check() const {
    if (smallest <= largest) return {};
    return fmt::format("time_step_min: found {}, allowed up to {} (time_step_max)", smallest,
                       largest);
  }
  /// The bias b with softplus(b) = max(smallest (largest / smallest)^u, floor), u in [0, 1):
  /// softplus^-1(y) = y + log(1 - e^-y).
  [[nodiscard]] double bias(double u) const {
    const double step =
        std::max(std::exp(std::log(smallest) + u * std::log(largest / smallest)), floor);
    return step + std::log(-std::expm1(-step));
  }
};

}  // namespace sluice
