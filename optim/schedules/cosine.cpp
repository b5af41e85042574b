#include <numbers>

#include "optim/schedules/shape.h"

namespace sluice::schedules {
namespace {

// final + (peak - final) * (1 + cos(pi * (s - W) / (T - W))) / 2
struct Cosine : ScheduleShape {
  // The floor of Loshchilov and Hutter's decay as language models use it: a tenth of the peak.
  static constexpr double kFinalShare = 0.1;

  double peak = 0.0;
  Warmup warmup;
  std::optional<double> final;
  Horizon horizon;

  void fields(FieldVisitor& v) override {
    v.number({"peak", "value at the end of the warm-up", /*required=*/true}, peak, {});
    warmup.fields(v);
    v.optional_number({"final", "value at the end and ever after; auto is a tenth of the peak"},
                      final, {}, "auto");
    horizon.fields(v);
  }
  [[nodiscard]] std::string check() const override { return horizon.check(warmup); }

  [[nodiscard]] Extremes extremes() const override {
    return warmup.extremes({peak, final.value_or(kFinalShare * peak)});
  }
  [[nodiscard]] double value(const Progress& progress) const override {
    if (warmup.covers(progress)) return warmup.value(peak, progress);
    const DurationUnit unit = horizon.unit(warmup);
    const double decayed = phase(warmup.length.in(unit, progress), horizon.length(unit, progress),
                                 elapsed_in(unit, progress));
    return std::lerp(final.value_or(kFinalShare * peak), peak,
                     0.5 * (1.0 + std::cos(std::numbers::pi * decayed)));
  }
};

}  // namespace

Choice cosine() {
  return {"cosine",
          "warm-up, then half a cosine down to the final value (Loshchilov and Hutter 2017)",
          make_shape<Cosine>};
}

}  // namespace sluice::schedules
