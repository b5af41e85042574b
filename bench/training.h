#pragma once
// Whole training steps in which only the balancing method, the router's schedule or the cut into
// micro-batches differs: one model, one optimizer and the same batches for all, so that a benchmark
// compares what it changes and nothing else.

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "bench/step_bench.h"
#include "train/run.h"

namespace sluice::bench {

/// Data, model and optimizer of a recipe, and a few of its batches.
class TrainingBench {
 public:
  explicit TrainingBench(Recipe recipe)
      : recipe_(std::move(recipe)),
        data_(load_dataset(recipe_.data, static_cast<uint64_t>(recipe_.seed))),
        sizes_(derive_sizes(recipe_, data_.num_train_tokens())),
        model_(build_model(recipe_, pool_, data_.tokenizer->vocab_size())),
        optimizer_(build_optimizer(recipe_, *model_, pool_)) {
    Loader loader(data_, loader_options(recipe_, sizes_, communicator_));
    for (int i = 0; i < kBatches; ++i) batches_.push_back(loader.next());
  }

  /// A step of this model under the balancing method of `recipe`.
  class Variant {
   public:
    Variant(TrainingBench& bench, const Recipe& recipe, int64_t micro_batch_tokens)
        : bench_(bench),
          routing_(build_routing(recipe)),
          step_({bench.pool_, *bench.model_, *routing_, *bench.optimizer_, bench.communicator_},
                options(bench, recipe, micro_batch_tokens)) {
      // The first step makes gradients, moments and the journal of selections.
      (void)run(0);
      step_.meter().reset();
    }
    /// One step as number `step` of the run.
    StepResult run(int64_t step) {
      const Batch& batch = bench_.batches_[next_++ % bench_.batches_.size()];
      return step_.run(batch, bench_.sizes_.progress(step, step * bench_.sizes_.tokens_per_step));
    }
    [[nodiscard]] CostMeter& meter() { return step_.meter(); }
    [[nodiscard]] const RoutingSession& routing() const { return *routing_; }

   private:
    static StepOptions options(const TrainingBench& bench, const Recipe& recipe,
                               int64_t micro_batch_tokens) {
      StepOptions result = step_options(recipe, bench.sizes_);
      result.micro_batch_tokens = micro_batch_tokens;
      return result;
    }
    TrainingBench& bench_;
    std::unique_ptr<RoutingSession> routing_;
    TrainingStep step_;
    size_t next_ = 0;
  };

  [[nodiscard]] const RunSizes& sizes() const { return sizes_; }

 private:
  static constexpr int kBatches = 4;
  SingleRank communicator_;
  Recipe recipe_;
  Dataset data_;
  RunSizes sizes_;
  Pool pool_;
  std::unique_ptr<Model> model_;
  std::unique_ptr<Optimizer> optimizer_;
  std::vector<Batch> batches_;
};

}  // namespace sluice::bench
