#include "train/profile/profile.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>
#include <utility>

namespace sluice {

double ProfileSummary::unaccounted() const {
  return std::accumulate(
      entries.begin(), entries.end(), seconds,
      [](double rest, const ProfileEntry& entry) { return rest - entry.total.seconds; });
}

Profile::Step::Step(Profile* profile, int64_t number) : profile_(profile) {
  if (profile_ == nullptr) return;
  profile_->in_step_ = true;
  profile_->step_number_ = number;
  ++profile_->steps_begun_;
  profile_->step_start_ = WorkItem::Clock::now();
}

Profile::Step::~Step() {
  if (profile_ != nullptr) profile_->end_step();
}

Profile::Span::Span(Profile* profile, std::string name)
    : profile_(profile), name_(std::move(name)), start_(WorkItem::Clock::now()) {}

Profile::Span::~Span() {
  if (profile_ == nullptr || !profile_->traces()) return;
  profile_->stretches_.push_back({std::move(name_), start_, WorkItem::Clock::now()});
}

void Profile::add(const WorkItem& item) {
  if (!counts()) return;
  CostMeter::Entry& total = totals_[{item.name, item.phase, item.direction}];
  total.flops += item.cost.flops;
  total.bytes += item.cost.bytes;
  total.seconds += item.seconds;
  ++total.calls;
  if (traces()) items_.push_back(item);
}

void Profile::end_step() {
  const auto end = WorkItem::Clock::now();
  if (counts()) {
    ++steps_;
    seconds_ += std::chrono::duration<double>(end - step_start_).count();
    if (traces()) stretches_.push_back({fmt::format("step {}", step_number_), step_start_, end});
  }
  in_step_ = false;
}

ProfileSummary Profile::summary() const {
  ProfileSummary summary;
  summary.steps = steps_;
  summary.seconds = seconds_;
  for (const auto& [key, total] : totals_) {
    summary.entries.push_back({key.name, key.phase, key.direction, total});
  }
  std::stable_sort(summary.entries.begin(), summary.entries.end(),
                   [](const ProfileEntry& a, const ProfileEntry& b) {
                     return a.total.seconds > b.total.seconds;
                   });
  return summary;
}

}  // namespace sluice
