#pragma once
// One optimizer step over one global batch.
//
//   zero gradients
//   cut the global batch into micro-batches of whole sequences
//   counting pass, when a balancer wants the loads of the whole global batch beforehand
//   forward and backward of each micro-batch, every loss divided by the valid tokens of the global
//   batch
//   the loss of every expert on the same tokens, when a router asks for it: one more forward pass for
//   each
//   sum of gradients and loads over ranks
//   norm, clipping, update, balancers' end of step; or, when a number is not finite, nothing of it
//   experts spawned from one another, after the step that the recipe names for it
//
// With a consistency loss every micro-batch goes through the model twice, with independent random
// numbers (dropout, jitter, noise, drawn experts), as one batch that holds its text twice; losses
// and loads are those of both passes together. With M valid tokens and CR the sum over them of the
// symmetric divergence of the passes' predictions,
//
//   L = (L1 + L2 + alpha CR) / (2 M)
//
// which is half of the loss of THOR (Zuo et al. 2021, arXiv 2110.04260, with their alpha) and of
// R-Drop (Liang et al. 2021), so that its size, and what clipping does, are those of one pass.
//
// Once every buffer has its size, a step that nobody watches takes no memory from the heap and makes
// no thread.
//
// The result does not depend on how the batch is cut: gradients are those of the global batch
// (design, numerics), and selections depend on the micro-batch only in methods that say so.

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "autograd/core/communicator.h"
#include "autograd/core/state.h"
#include "autograd/core/tape.h"
#include "balance/router_monitor.h"
#include "data/batch.h"
#include "layers/ffns/moe.h"
#include "layers/model.h"
#include "layers/routing_session.h"
#include "optim/clip.h"
#include "optim/expert_updates.h"
#include "optim/optimizer.h"
#include "train/frozen_experts.h"
#include "train/model_input.h"

namespace sluice {

class Teacher;

/// What a step is watched for beside what it counts anyway. Changes no result.
struct StepWatch {
  bool routers = false;  // entropy, margin, logits: under 1 % of the step's time
  bool experts = false;  // every expert's gradient and update: a copy of their weights
};

struct StepOptions {
  /// Largest micro-batch.
  int64_t micro_batch_tokens = 8192;
  Recompute recompute = Recompute::none;
  /// Weight of the mean squared log-sum-exp of the vocabulary logits.
  Scheduled head_z_loss = 0.0;
  uint64_t seed = 1;
  /// Weight alpha of the divergence between two passes over every micro-batch; none: one pass.
  std::optional<Scheduled> consistency = std::nullopt;
  /// How experts are made of the one that was trained first; null: they are experts from the start.
  std::shared_ptr<const DiversifyConfig> diversify = nullptr;
  /// Experts that stay as they are (frozen_experts.h).
  std::vector<int64_t> freeze_experts = {};
  /// Whose predictions the model learns from too; null: nobody's.
  std::shared_ptr<Teacher> teacher = nullptr;
};

/// What the step works on; all of it outlives the step.
struct StepParts {
  Pool& pool;
  Model& model;
  RoutingSession& routing;
  Optimizer& optimizer;
  Communicator& communicator;
};

struct StepResult {
  /// False when the update was skipped because a number was not finite; then nothing but the
  /// gradients has changed.
  bool applied = false;
  /// Why it was skipped: "loss 4.2, gradient norm inf, first in layers.3.experts.w_up".
  std::string problem;
  /// True when it was skipped because no token of the global batch has a loss: nothing was computed.
  bool empty = false;

  double loss = 0.0;  // language model, nats per valid token; the mean of two passes
  std::array<double, kLossKinds> auxiliary{};  // weighted, as minimised
  std::optional<double> consistency;           // weighted, as minimised; none for one pass
  std::optional<double> distillation;          // weighted, as minimised; none without a teacher
  double grad_norm = 0.0;                      // before clipping
  double learning_rate = 0.0;
  int64_t tokens = 0;        // of all ranks
  int64_t valid_tokens = 0;  // of all ranks
  int64_t micro_batches = 0;
  double seconds = 0.0;
  /// One per expert layer, of the global batch; empty unless watched.
  std::vector<RouterStatistics> routers;
  /// One per stack of routed experts; empty unless watched and applied.
  std::vector<ExpertUpdates> experts;
};

class TrainingStep {
 public:
  TrainingStep(const StepParts& parts, StepOptions options);

  /// One step on this rank's share of the global batch.
  [[nodiscard]] StepResult run(const Batch& batch, const Progress& progress,
                               const StepWatch& watch = {});

  /// Work and seconds by phase since the last reset of the meter.
  [[nodiscard]] CostMeter& meter() { return meter_; }
  /// On a pool for shapes only: what the tape kept at the end of the forward pass of that
  /// micro-batch of the last step for which it was most.
  [[nodiscard]] const SavedMemory& saved_memory() const { return saved_memory_; }

 private:
  struct GlobalCounts {
    int64_t tokens;
    int64_t valid_tokens;
    int64_t sequences;
  };
  [[nodiscard]] StepResult run_update(const Batch& batch, const Progress& progress,
                                      const StepWatch& watch);
  [[nodiscard]] GlobalCounts count(const Batch& batch) const;
  void save_routing();
  void restore_routing();
  void run_micro_batches(const GlobalCounts& counts, const Progress& progress, StepResult& result);
  void watch_micro_batches(const GlobalCounts& counts, const Progress& progress,
                           StepResult& result);
  void note_saved_memory();
  void measure_experts(const GlobalCounts& counts, const Progress& progress);
  void run_counting_pass(const GlobalCounts& counts, const Progress& progress);
  /// The model's input, in memory that every micro-batch uses.
  [[nodiscard]] const ModelInput& input_of(const Batch& micro_batch, int64_t passes);
  [[nodiscard]] int64_t passes() const { return options_.consistency ? 2 : 1; }
  /// The loss of a micro-batch, its parts added to `result`.
  [[nodiscard]] Tensor loss_of(const ForwardContext& context, const ModelInput& input,
                               const Model::LossOptions& options, StepResult& result);
  [[nodiscard]] ForwardContext context_for(const SequenceLayout& layout, const GlobalCounts& counts,
                                           const Progress& progress);
  void sum_over_ranks(StepResult& result);
  /// The meter for work that no kernel does; null on a pool for shapes only.
  [[nodiscard]] CostMeter* clock() { return parts_.pool.shapes_only() ? nullptr : &meter_; }
  [[nodiscard]] GradientNorm measure_gradient();
  void update(const Progress& progress, const StepWatch& watch, StepResult& result);
  void apply(const Progress& progress, const StepWatch& watch, double norm, StepResult& result);

  StepParts parts_;
  StepOptions options_;
  std::vector<Parameter*> parameters_;
  FrozenExperts frozen_;
  CostMeter meter_;
  Tape tape_;
  // Of the step, kept for their memory: in a steady state a step allocates nothing
  // (tests/steady_state).
  std::vector<Batch> micro_batches_;
  ModelInput input_;
  StateSnapshot routing_before_;
  SavedMemory saved_memory_;
};

}  // namespace sluice
