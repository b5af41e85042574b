#pragma once
// The losses of the last steps, as the yardstick of the latest one.

#include <cstdint>
#include <optional>
#include <vector>

#include "autograd/core/state.h"

namespace sluice {

/// How far a loss lies from the mean of those before it, in their standard deviations (OLMo-core's
/// rule for spotting spikes, of which only the measure is used here). Part of a checkpoint.
class LossHistory {
 public:
  static constexpr int64_t kLength = 128;
  /// Fewer losses say too little.
  static constexpr int64_t kFewest = 64;

  /// (loss - mean) / deviation of the losses so far, nullopt for fewer than kFewest. The deviation
  /// is the unbiased one, at least 1e-6 of the mean: after a constant history any rise would
  /// otherwise be infinitely far.
  [[nodiscard]] std::optional<double> deviation(double loss) const;
  /// Remembers a finite loss, and forgets the oldest of more than kLength.
  void add(double loss);

  void visit_state(StateVisitor& visitor) { visitor.list("losses", losses_); }

 private:
  std::vector<double> losses_;  // oldest first
};

}  // namespace sluice
