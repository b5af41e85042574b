#include "optim/schedules/shape.h"

namespace sluice::schedules {
namespace {

// from + (to - from) * min(s, L) / L
struct Linear : ScheduleShape {
  double from = 0.0;
  double to = 0.0;
  std::optional<Duration> over;

  void fields(FieldVisitor& v) override {
    v.number({"from", "value at step 0", /*required=*/true}, from, {});
    v.number({"to", "value at the end and ever after", /*required=*/true}, to, {});
    v.optional_duration({"over", "length of the change; auto is the whole run"}, over, "auto");
  }
  [[nodiscard]] Extremes extremes() const override {
    return {std::min(from, to), std::max(from, to)};
  }
  [[nodiscard]] double value(const Progress& progress) const override {
    const DurationUnit unit = over ? over->unit : DurationUnit::steps;
    const double length = over ? over->count : run_length_in(unit, progress);
    return std::lerp(from, to, phase(0.0, length, elapsed_in(unit, progress)));
  }
};

}  // namespace

Choice linear() {
  return {"linear", "a straight line from one value to another", make_shape<Linear>};
}

}  // namespace sluice::schedules
