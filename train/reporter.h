#pragma once
// What a run tells people, apart from its metrics: before the first step, and after the last. The
// command line turns it into text; libraries print nothing.

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>

#include "train/build.h"
#include "train/environment.h"
#include "train/evaluate.h"
#include "train/parameter_count.h"
#include "train/plan.h"
#include "train/profile/profile.h"
#include "train/transforms/receipt.h"

namespace sluice {

/// Known before the first step.
struct RunOverview {
  std::filesystem::path folder;
  const Recipe& recipe;
  const Dataset& data;
  const Model& model;
  RunSizes sizes;
  Machine machine;
  double gemm_peak = 0.0;  // FLOP/s
  ParameterCount parameters;
  Plan plan;               // of one step, and its memory
  int64_t first_step = 0;  // steps done before: 0 for a new run
  std::optional<std::filesystem::path> resumed_from;
  std::optional<UpcyclingReceipt> upcycling;  // of a new run that was upcycled
};

enum class StopReason : uint8_t { complete, signal, out_of_time, not_started };

/// Known after the last step of this process.
struct RunSummary {
  StopReason reason = StopReason::complete;
  int signal = 0;  // its number when that was the reason
  std::filesystem::path folder;
  std::optional<std::filesystem::path> checkpoint;  // the newest
  std::optional<std::filesystem::path> report;      // of a complete run, when it could be written
  std::optional<ProfileSummary> profile;            // of a profiled process
  int64_t step = 0;
  int64_t total_steps = 0;
  std::optional<Evaluation> evaluation;  // after the last step, when the run is complete
  std::optional<double> best_eval_loss;  // of the whole run, nats per token
  int64_t best_eval_step = -1;
  double seconds = 0.0;             // of training, over all processes of the run
  double tokens_per_second = 0.0;   // of this process, in steps; 0 without a step
  int64_t peak_memory_bytes = 0;    // high-water mark of the tensor pool
  int64_t peak_resident_bytes = 0;  // of the process
};

class Reporter {
 public:
  virtual ~Reporter() = default;
  /// One sentence that a person should see (a damaged checkpoint was skipped, ...).
  virtual void note(std::string_view sentence) = 0;
  virtual void started(const RunOverview& overview) = 0;
  virtual void finished(const RunSummary& summary) = 0;
};

}  // namespace sluice
