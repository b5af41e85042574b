#pragma once
// What a recipe will cost, found by running one training step on shapes only: the code that counts
// is the code that runs.

#include <cstdint>

#include "autograd/core/cost.h"
#include "autograd/support/pool.h"
#include "train/build.h"
#include "train/parameter_count.h"

namespace sluice {

struct Plan {
  ParameterCount parameters;
  RunSizes sizes;
  /// Of one optimizer step on full sequences of one document each: FLOPs and bytes by phase and
  /// direction.
  CostMeter cost;
  int64_t tokens = 0;  // of that step
  /// High-water mark of the tensor pool and its split, with experts evenly loaded.
  MemoryUse peak;

  /// Matrix-product FLOPs of forward and backward, without extra forwards, per token of the step.
  [[nodiscard]] double flops_per_token() const;
  /// The same for one phase.
  [[nodiscard]] double flops_per_token(Phase phase) const;
};

/// `vocab_size` is that of the tokenizer; `train_tokens` as in derive_sizes.
[[nodiscard]] Plan make_plan(const Recipe& recipe, int64_t vocab_size, int64_t train_tokens);

/// The vocabulary that a run of this recipe will have; trains no tokenizer. Throws ConfigError,
/// DataError.
[[nodiscard]] int64_t planned_vocab_size(const Recipe& recipe);

}  // namespace sluice
