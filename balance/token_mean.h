#pragma once
// The mean of one number per expert over the micro-batches and ranks of a step, weighed by their
// counted tokens.

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/core/communicator.h"
#include "autograd/core/state.h"

namespace sluice {

class TokenMean {
 public:
  /// `values` [E] of a micro-batch of so many counted tokens.
  void add(std::span<const double> values, int64_t tokens);
  /// Sums over ranks. One of them may have added nothing, but all must speak of `experts` numbers.
  void reduce(Communicator& communicator, size_t experts);
  /// The mean [E], or nothing when nothing was added; forgets it.
  [[nodiscard]] std::vector<double> take();
  /// Empty between steps.
  void visit_state(StateVisitor& visitor) { visitor.list("sums", sums_); }

 private:
  std::vector<double> sums_;  // [E + 1]: sum of tokens * value, and of tokens; or empty
};

}  // namespace sluice
