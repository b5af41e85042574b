#include "train/profile/trace_events.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace sluice {
namespace {

using Json = nlohmann::ordered_json;
using TimePoint = WorkItem::Clock::time_point;

constexpr int kLoopRow = 1;
constexpr int kWorkRow = 2;

constexpr std::array<std::string_view, kDirections> kDirectionNames = {"forward", "backward",
                                                                       "extra"};

double microseconds(WorkItem::Clock::duration duration) {
  return std::chrono::duration<double, std::micro>(duration).count();
}

/// The name of a row, in the format's own words: a thread of the process.
Json row_name(int row, std::string_view name) {
  return {
      {"ph", "M"}, {"name", "thread_name"}, {"pid", 1}, {"tid", row}, {"args", {{"name", name}}}};
}

Json event(int row, std::string_view name, std::string_view category, double start, double length) {
  return {{"ph", "X"},  {"name", name}, {"cat", category}, {"pid", 1},
          {"tid", row}, {"ts", start},  {"dur", length}};
}

Json work_event(const WorkItem& item, TimePoint zero) {
  const std::string_view phase = name_of(item.phase);
  // Work of the host is shown by the phase that it belongs to.
  Json json = event(kWorkRow, item.name == kHostWork ? phase : item.name, phase,
                    microseconds(item.start - zero), microseconds(item.end - item.start));
  Json& arguments = json["args"];
  arguments["direction"] = kDirectionNames[static_cast<size_t>(item.direction)];
  if (item.seconds <= 0.0) return json;
  if (item.cost.flops > 0.0) arguments["GFLOP/s"] = item.cost.flops / item.seconds * 1e-9;
  if (item.cost.bytes > 0.0) arguments["GB/s"] = item.cost.bytes / item.seconds * 1e-9;
  return json;
}

}  // namespace

std::string trace_events(const Profile& profile) {
  TimePoint zero = TimePoint::max();
  for (const Profile::Stretch& stretch : profile.stretches()) zero = std::min(zero, stretch.start);
  for (const WorkItem& item : profile.items()) zero = std::min(zero, item.start);
  Json events = Json::array();
  events.push_back(row_name(kLoopRow, "training loop"));
  events.push_back(row_name(kWorkRow, "kernels"));
  for (const Profile::Stretch& stretch : profile.stretches()) {
    events.push_back(event(kLoopRow, stretch.name, "loop", microseconds(stretch.start - zero),
                           microseconds(stretch.end - stretch.start)));
  }
  for (const WorkItem& item : profile.items()) events.push_back(work_event(item, zero));
  return Json{{"displayTimeUnit", "ms"}, {"traceEvents", std::move(events)}}.dump() + "\n";
}

}  // namespace sluice
