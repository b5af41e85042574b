#include "autograd/core/cost.h"

#include <algorithm>

namespace sluice {
namespace {

void accumulate(CostMeter::Entry& into, const CostMeter::Entry& entry) {
  into.flops += entry.flops;
  into.bytes += entry.bytes;
  into.seconds += entry.seconds;
  into.calls += entry.calls;
}

}  // namespace

std::string_view name_of(Phase phase) {
  constexpr std::array<std::string_view, kPhases> kNames = {
      "other",   "embedding_and_loss", "attention", "feed_forward", "experts",
      "routing", "balancing",          "optimizer"};
  return kNames[static_cast<size_t>(phase)];
}

void CostMeter::count(Phase phase, Direction direction, const KernelCost& cost) {
  accumulate(entries_[static_cast<size_t>(phase)][static_cast<size_t>(direction)],
             {cost.flops, cost.bytes, 0.0, 1});
}

void CostMeter::add(const WorkItem& item) {
  accumulate(entries_[static_cast<size_t>(item.phase)][static_cast<size_t>(item.direction)],
             {item.cost.flops, item.cost.bytes, item.seconds, item.name == kHostWork ? 0 : 1});
  seconds_added_ += item.seconds;
  if (observer_ != nullptr) observer_->add(item);
}

CostMeter CostMeter::take() {
  CostMeter taken = *this;
  taken.observer_ = nullptr;
  reset();
  return taken;
}

CostMeter::Entry CostMeter::phase_total(Phase phase) const {
  Entry sum;
  for (const Entry& entry : entries_[static_cast<size_t>(phase)]) accumulate(sum, entry);
  return sum;
}

CostMeter::Entry CostMeter::direction_total(Direction direction) const {
  Entry sum;
  for (const auto& phase : entries_) accumulate(sum, phase[static_cast<size_t>(direction)]);
  return sum;
}

CostMeter::Entry CostMeter::total() const {
  Entry sum;
  for (int phase = 0; phase < kPhases; ++phase)
    accumulate(sum, phase_total(static_cast<Phase>(phase)));
  return sum;
}

double CostMeter::useful_flops() const {
  return direction_total(Direction::forward).flops + direction_total(Direction::backward).flops;
}

PhaseTimer::PhaseTimer(CostMeter* meter, Phase phase, Direction direction)
    : PhaseTimer(meter, phase, direction, kHostWork, {}) {}

PhaseTimer::PhaseTimer(CostMeter* meter, Phase phase, Direction direction, std::string_view name,
                       const KernelCost& cost)
    : meter_(meter), item_{.name = name, .phase = phase, .direction = direction, .cost = cost} {
  if (meter_ == nullptr) return;
  added_before_ = meter_->seconds_added();
  item_.start = WorkItem::Clock::now();
}

PhaseTimer::~PhaseTimer() {
  if (meter_ == nullptr) return;
  item_.end = WorkItem::Clock::now();
  const std::chrono::duration<double> passed = item_.end - item_.start;
  const double accounted_for = meter_->seconds_added() - added_before_;
  item_.seconds = std::max(0.0, passed.count() - accounted_for);
  meter_->add(item_);
}

}  // namespace sluice
