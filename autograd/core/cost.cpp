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

void CostMeter::add(Phase phase, Direction direction, const KernelCost& cost, double seconds) {
  accumulate(entries_[static_cast<size_t>(phase)][static_cast<size_t>(direction)],
             {cost.flops, cost.bytes, seconds, 1});
  seconds_added_ += seconds;
}

void CostMeter::add_seconds(Phase phase, Direction direction, double seconds) {
  entries_[static_cast<size_t>(phase)][static_cast<size_t>(direction)].seconds += seconds;
  seconds_added_ += seconds;
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
    : meter_(meter), phase_(phase), direction_(direction) {
  if (meter_ == nullptr) return;
  added_before_ = meter_->seconds_added();
  start_ = std::chrono::steady_clock::now();
}

PhaseTimer::~PhaseTimer() {
  if (meter_ == nullptr) return;
  const std::chrono::duration<double> passed = std::chrono::steady_clock::now() - start_;
  const double accounted_for = meter_->seconds_added() - added_before_;
  meter_->add_seconds(phase_, direction_, std::max(0.0, passed.count() - accounted_for));
}

}  // namespace sluice
