#pragma once
// Recorded decisions instead of the router's and the balancer's.
//
//   StepReplay replay(config, model.experts_per_layer());
//   const auto source = replay.open(step);                  // of step 1, 2, ...
//   const RouteSourceScope scope(session, source.get());
//   ... the training step ...
//
// Sequences are found by their number in the run, so a global batch may be cut into other
// micro-batches than when it was recorded. Combine weights are the model's own, computed at the
// recorded experts with gradients as ever, or the recorded ones, which are constants. Capacity
// drops what it dropped then. Balancers do not route: state that they learn while they route
// (thresholds, prices) stands still; losses and updates from loads go on.

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/support/fields.h"
#include "layers/routing.h"
#include "train/trace/trace_file.h"

namespace sluice {

/// `train.replay`
struct ReplayConfig final : Configurable {
  std::string from;
  std::string weights = "model";
  std::vector<int64_t> layers;
  void fields(FieldVisitor& v) override;
};

struct ReplayOptions {
  bool recorded_weights = false;
  std::vector<int64_t> layers;  // those that are replayed; empty: all
};

/// Replays one file. Throws ConfigError, one sentence, where it does not fit the model or the run:
/// other expert layers, experts, top_k, micro-batches where they matter; DataError where sequences
/// or tokens are others.
class TraceReplay final : public RouteSource {
 public:
  /// `experts_per_layer` of the model.
  TraceReplay(const std::filesystem::path& path, ReplayOptions options,
              std::span<const int64_t> experts_per_layer);
  [[nodiscard]] bool choose(const RouteRequest& request, Selection& selection) override;

 private:
  /// The recorded sequences of a micro-batch, [S], as indices into trace_.sequences().
  [[nodiscard]] std::vector<int64_t> find_sequences(const RouteRequest& request) const;
  void check_tokens(const RouteRequest& request, std::span<const int64_t> sequences) const;
  void fill(const TraceFile::Layer& layer, std::span<const int64_t> sequences,
            Selection& selection) const;
  /// The micro-batch that consisted of exactly these sequences; nullopt when none did.
  [[nodiscard]] std::optional<int64_t> same_micro_batch(std::span<const int64_t> sequences) const;

  TraceFile trace_;
  ReplayOptions options_;
};

/// Replays the training traces of a run.
class StepReplay {
 public:
  StepReplay(const ReplayConfig& config, std::vector<int64_t> experts_per_layer);
  /// Throws ConfigError when a step from `first` to `last` has no file.
  void check_steps(int64_t first, int64_t last) const;
  [[nodiscard]] std::unique_ptr<TraceReplay> open(int64_t step) const;

 private:
  TraceFolder folder_;
  ReplayOptions options_;
  std::vector<int64_t> experts_per_layer_;
};

}  // namespace sluice
