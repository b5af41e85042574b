#include <vector>

#include "autograd/support/error.h"
#include "optim/schedules/shape.h"

namespace sluice::schedules {
namespace {

struct Point : Configurable {
  Duration at;
  double value = 0.0;

  void fields(FieldVisitor& v) override {
    v.duration({"at", "where the point stands", /*required=*/true}, at);
    v.number({"value", "value from there on (step) or there (linear)", /*required=*/true}, value,
             {});
  }
};

enum class Mode { linear, step };

// Before the first point its value holds, after the last one the last value.
struct Piecewise : ScheduleShape {
  // Each is a Point; the field list knows only Configurable.
  std::vector<std::shared_ptr<Configurable>> points;
  Mode mode = Mode::linear;

  void fields(FieldVisitor& v) override {
    v.object_list({"points", "points in ascending order, all in one unit", /*required=*/true},
                  points, [] { return std::make_shared<Point>(); });
    v.enumeration({"mode", "linear between the points, or step: each value holds until the next"},
                  mode, {{"linear", Mode::linear}, {"step", Mode::step}});
  }
  [[nodiscard]] std::string check() const override {
    if (points.empty()) return "points: found an empty list, allowed one point or more";
    for (size_t i = 1; i < points.size(); ++i) {
      const Duration& before = point(i - 1).at;
      const Duration& at = point(i).at;
      const std::string place = "points." + std::to_string(i) + ".at: found " + at.to_string();
      if (at.unit != before.unit) return place + ", allowed the unit of " + before.to_string();
      if (at.count <= before.count) return place + ", allowed more than " + before.to_string();
    }
    return {};
  }

  [[nodiscard]] Extremes extremes() const override {
    Extremes found{point(0).value, point(0).value};
    for (size_t i = 1; i < points.size(); ++i) {
      found.least = std::min(found.least, point(i).value);
      found.greatest = std::max(found.greatest, point(i).value);
    }
    return found;
  }
  [[nodiscard]] double value(const Progress& progress) const override {
    SLUICE_INTERNAL_CHECK(!points.empty(), "a piecewise schedule was used before it was checked");
    const double now = point(0).at.elapsed(progress);
    size_t next = 0;
    while (next < points.size() && point(next).at.count <= now) ++next;
    if (next == 0) return point(0).value;
    const Point& before = point(next - 1);
    if (next == points.size() || mode == Mode::step) return before.value;
    const Point& after = point(next);
    return std::lerp(before.value, after.value, phase(before.at.count, after.at.count, now));
  }

 private:
  [[nodiscard]] const Point& point(size_t index) const {
    return static_cast<const Point&>(*points[index]);
  }
};

}  // namespace

Choice piecewise() {
  return {"piecewise", "through given points, linearly or in steps", make_shape<Piecewise>};
}

}  // namespace sluice::schedules
