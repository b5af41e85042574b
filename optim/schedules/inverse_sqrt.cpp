#include <limits>

#include "optim/schedules/shape.h"

namespace sluice::schedules {
namespace {

// peak * sqrt(W / max(s, W))
struct InverseSqrt : ScheduleShape {
  double peak = 0.0;
  Warmup warmup{.length = {100.0, DurationUnit::steps}};

  void fields(FieldVisitor& v) override {
    v.number({"peak", "value at the end of the warm-up", /*required=*/true}, peak, {});
    warmup.fields(v);
  }
  [[nodiscard]] std::string check() const override {
    if (warmup.length.count > 0.0) return {};
    return "warmup: found " + warmup.length.to_string() +
           ", allowed more than 0: the decay is measured in warm-ups";
  }
  [[nodiscard]] Extremes extremes() const override {
    // The decay approaches 0 and never reaches it.
    return warmup.extremes({peak, std::copysign(std::numeric_limits<double>::min(), peak)});
  }
  [[nodiscard]] double value(const Progress& progress) const override {
    if (warmup.covers(progress)) return warmup.value(peak, progress);
    return peak * std::sqrt(warmup.length.count / warmup.length.elapsed(progress));
  }
};

}  // namespace

Choice inverse_sqrt() {
  return {"inverse_sqrt",
          "warm-up, then falling with the square root of the step (Vaswani et al. 2017)",
          make_shape<InverseSqrt>};
}

}  // namespace sluice::schedules
