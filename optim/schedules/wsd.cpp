#include "optim/schedules/shape.h"

namespace sluice::schedules {
namespace {

enum class DecayShape { linear, sqrt };

// Up to the decay the value does not depend on the length of the run, so a longer run, or a decay
// forked from any checkpoint of the stable phase, continues the same curve.
struct WarmupStableDecay : ScheduleShape {
  double peak = 0.0;
  Warmup warmup;
  Duration decay{10.0, DurationUnit::percent};
  double final = 0.0;
  DecayShape decay_shape = DecayShape::linear;
  Horizon horizon;

  void fields(FieldVisitor& v) override {
    v.number({"peak", "value of the stable phase", /*required=*/true}, peak, {});
    warmup.fields(v);
    v.duration({"decay", "length of the decay at the end"}, decay);
    v.number({"final", "value at the end and ever after"}, final, {});
    v.enumeration(
        {"decay_shape", "linear, or sqrt: 1 - sqrt(x), steep at first (Haegele et al. 2024)"},
        decay_shape, {{"linear", DecayShape::linear}, {"sqrt", DecayShape::sqrt}});
    horizon.fields(v);
  }
  [[nodiscard]] std::string check() const override { return horizon.check(warmup); }

  [[nodiscard]] Extremes extremes() const override { return warmup.extremes({peak, final}); }
  [[nodiscard]] double value(const Progress& progress) const override {
    if (warmup.covers(progress)) return warmup.value(peak, progress);
    const DurationUnit unit = horizon.unit(warmup);
    const double end = horizon.length(unit, progress);
    // A run too short for both keeps its warm-up and shortens the decay.
    const double begin = std::max(end - decay.in(unit, progress), warmup.length.in(unit, progress));
    const double now = elapsed_in(unit, progress);
    const double decayed = now < begin ? 0.0 : phase(begin, end, now);
    return std::lerp(peak, final, decay_shape == DecayShape::linear ? decayed : std::sqrt(decayed));
  }
};

}  // namespace

Choice wsd() {
  return {"wsd", "warm-up, stable, decay over the last part of the run (Hu et al. 2024, MiniCPM)",
          make_shape<WarmupStableDecay>};
}

}  // namespace sluice::schedules
