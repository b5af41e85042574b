#pragma once
// Is a resumed run the same run? Trained both ways, and compared bit by bit.
//
//   const ResumeVerdict verdict = verify_resume(recipe, {.steps = 10});
//   if (!verdict.is_identical()) ...

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "autograd/core/state.h"
#include "train/recipe.h"

namespace sluice {

struct VerifyResumeOptions {
  /// Before the checkpoint, and again after it; none: 10, or half of a shorter run.
  std::optional<int64_t> steps = std::nullopt;
};

/// What a run leaves behind.
struct RunTrace {
  HashVisitor::Hashes state;              // of every array, by its path in a checkpoint
  std::map<std::string, double> metrics;  // "step 12: train/loss"
};

/// Things of one kind that both runs have.
struct ComparedState {
  std::string name;  // "model", "optim", "balance", "data", "run", "metrics"
  int64_t count = 0;
  std::vector<std::string> differing;
};

struct ResumeVerdict {
  int64_t steps = 0;  // before the checkpoint, and again after it
  std::vector<ComparedState> compared;
  [[nodiscard]] bool is_identical() const;
};

/// Compares hashes and the bits of metrics. What stands in one trace only differs.
[[nodiscard]] std::vector<ComparedState> compare_traces(const RunTrace& straight,
                                                        const RunTrace& resumed);

/// Trains 2n steps straight; trains n steps, writes a checkpoint to a temporary folder, builds
/// everything anew from that file and trains n more. Compares the hash of every array of the state,
/// and every metric of the last n steps and of an evaluation after them, without speed and memory.
/// Throws ConfigError when the recipe is shorter than 2n steps, and whatever training throws.
[[nodiscard]] ResumeVerdict verify_resume(const Recipe& recipe, const VerifyResumeOptions& options);

}  // namespace sluice
