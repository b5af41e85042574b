#include "optim/schedules/shape.h"

namespace sluice::schedules {
namespace {

// from * (to / from)^(min(s, L) / L)
struct Exponential : ScheduleShape {
  double from = 0.0;
  double to = 0.0;
  std::optional<Duration> over;

  void fields(FieldVisitor& v) override {
    v.number({"from", "value at step 0", /*required=*/true}, from,
             {.min = 0.0, .exclusive_min = true});
    v.number({"to", "value at the end and ever after", /*required=*/true}, to,
             {.min = 0.0, .exclusive_min = true});
    v.optional_duration({"over", "length of the change; auto is the whole run"}, over, "auto");
  }
  [[nodiscard]] Extremes extremes() const override {
    return {std::min(from, to), std::max(from, to)};
  }
  [[nodiscard]] double value(const Progress& progress) const override {
    const DurationUnit unit = over ? over->unit : DurationUnit::steps;
    const double length = over ? over->count : run_length_in(unit, progress);
    const double done = phase(0.0, length, elapsed_in(unit, progress));
    // Rounding must not carry it past its ends.
    const auto [least, greatest] = extremes();
    return std::clamp(from * std::pow(to / from, done), least, greatest);
  }
};

}  // namespace

Choice exponential() {
  return {"exponential", "from one value to another by a constant factor per step",
          make_shape<Exponential>};
}

}  // namespace sluice::schedules
