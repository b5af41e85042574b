#pragma once
// What of a training run's routes is recorded.

#include <cstdint>
#include <optional>
#include <vector>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"

namespace sluice {

/// `train.trace`
struct TraceConfig final : Configurable {
  std::optional<Duration> every = Duration{100, DurationUnit::steps};  // "never"
  int64_t first_step = 1;
  std::optional<int64_t> last_step;  // "none"
  bool held_out = true;
  std::vector<int64_t> layers;
  void fields(FieldVisitor& v) override;

  /// `step`, from 1, is in the range that may be recorded.
  [[nodiscard]] bool covers(int64_t step) const {
    return step >= first_step && (!last_step || step <= *last_step);
  }
};

}  // namespace sluice
