#pragma once
// What the schedule shapes share: the warm-up and the position inside a phase. Included by the
// shapes only.
//
// Step 0, the first optimizer step, gets s = 0 and therefore exactly `warmup_from`; step W gets
// exactly the peak. The schedules count s = step and not step + 1, so that they are continuous at
// every join and the values of published tables hold as pure functions of the step; give
// warmup_from a value if step 0 should move the weights.

#include <algorithm>
#include <cmath>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>

#include "autograd/support/fields.h"
#include "autograd/support/scheduled.h"

namespace sluice::schedules {

/// Linear warm-up: from + (peak - from) * min(s, W) / W.
struct Warmup {
  Duration length;
  double from = 0.0;

  void fields(FieldVisitor& v) {
    v.duration({"warmup", "length of the linear rise to the peak; 0 starts at the peak"}, length);
    v.number({"warmup_from", "value at step 0 of the warm-up"}, from, {});
  }
  [[nodiscard]] bool covers(const Progress& progress) const {
    return length.count > 0.0 && length.elapsed(progress) < length.count;
  }
  /// The extremes of a schedule with this warm-up and `values` after it.
  [[nodiscard]] ScheduleShape::Extremes extremes(std::initializer_list<double> values) const {
    const auto [least, greatest] = std::minmax(values);
    if (length.count == 0.0) return {least, greatest};
    return {std::min(least, from), std::max(greatest, from)};
  }
  /// Only while it covers `progress`.
  [[nodiscard]] double value(double peak, const Progress& progress) const {
    return std::lerp(from, peak, length.elapsed(progress) / length.count);
  }
};

/// Where `now` stands between `begin` (0) and `end` (1), clamped; 1 when the phase has no length.
[[nodiscard]] inline double phase(double begin, double end, double now) {
  if (end <= begin) return 1.0;
  return std::clamp((now - begin) / (end - begin), 0.0, 1.0);
}

/// The end of a schedule: a duration from the start of the run, or the whole run.
struct Horizon {
  std::optional<Duration> total;

  void fields(FieldVisitor& v) {
    v.optional_duration(
        {"total", "where the schedule ends, warm-up included; auto is the whole run"}, total,
        "auto");
  }
  /// The unit in which a schedule with this horizon and this warm-up counts.
  [[nodiscard]] DurationUnit unit(const Warmup& warmup) const {
    return total ? total->unit : warmup.length.unit;
  }
  [[nodiscard]] double length(DurationUnit unit, const Progress& progress) const {
    return total ? total->in(unit, progress) : run_length_in(unit, progress);
  }
  /// "" or what is wrong with a warm-up that outlasts the schedule.
  [[nodiscard]] std::string check(const Warmup& warmup) const {
    if (!total || total->unit != warmup.length.unit || warmup.length.count <= total->count)
      return {};
    return "warmup: found " + warmup.length.to_string() + ", allowed at most total (" +
           total->to_string() + ")";
  }
};

/// The factories of the table, one per line of the list: `Choice cosine();` lives in cosine.cpp.
#define SLUICE_SCHEDULE(name) [[nodiscard]] Choice name();
#include "optim/schedules.def"
#undef SLUICE_SCHEDULE

/// For a factory's Choice::make_config.
template <class Shape>
[[nodiscard]] std::unique_ptr<Configurable> make_shape() {
  return std::make_unique<Shape>();
}

}  // namespace sluice::schedules
