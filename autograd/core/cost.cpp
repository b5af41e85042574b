#include "autograd/core/cost.h"

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
      "routing", "optimizer"};
  return kNames[static_cast<size_t>(phase)];
}

void CostMeter::add(Phase phase, Direction direction, const KernelCost& cost, double seconds) {
  accumulate(entries_[static_cast<size_t>(phase)][static_cast<size_t>(direction)],
             {cost.flops, cost.bytes, seconds, 1});
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

}  // namespace sluice
