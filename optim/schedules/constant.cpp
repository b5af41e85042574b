#include "optim/schedules/shape.h"

namespace sluice::schedules {
namespace {

struct Constant : ScheduleShape {
  double level = 0.0;
  Warmup warmup;

  void fields(FieldVisitor& v) override {
    v.number({"value", "value after the warm-up", /*required=*/true}, level, {});
    warmup.fields(v);
  }
  [[nodiscard]] Extremes extremes() const override { return warmup.extremes({level}); }
  [[nodiscard]] double value(const Progress& progress) const override {
    return warmup.covers(progress) ? warmup.value(level, progress) : level;
  }
};

}  // namespace

Choice constant() {
  return {"constant", "one value, after an optional warm-up", make_shape<Constant>};
}

}  // namespace sluice::schedules
