#pragma once
// Whole training steps of recipes on their own data, each beside what the machine could do just
// before and after it. Models that are compared take turns in one process, because the speed of
// shared machines drifts.

#include <fmt/format.h>

#include <string>
#include <utility>
#include <vector>

#include "bench/figures.h"
#include "bench/gemm_libraries.h"
#include "bench/run_benchmarks.h"
#include "train/environment.h"
#include "train/plan.h"
#include "train/run.h"

namespace sluice::bench {

/// The recipe recipes/NAME.yaml with `changes`, as of `--set`.
[[nodiscard]] inline Recipe shipped_recipe(const std::string& name,
                                           std::vector<std::string> changes) {
  return load_recipe(
      {{fmt::format("{}/recipes/{}.yaml", SLUICE_SOURCE_DIR, name)}, std::move(changes)});
}

/// One step, and the machine around it.
struct StepSample {
  double seconds = 0.0;
  double optimizer_seconds = 0.0;  // gradient norm and update
  double optimizer_bytes = 0.0;    // that they must move
  double routing_seconds = 0.0;    // routing, dispatch, combine
  double balancing_seconds = 0.0;
  double flops = 0.0;  // useful: CostMeter::useful_flops
  double tokens = 0.0;
  GemmRates gemm;      // 1024^3 products, FLOP/s
  double triad = 0.0;  // bytes/s

  /// The step without the optimizer.
  [[nodiscard]] double forward_backward() const { return seconds - optimizer_seconds; }
  [[nodiscard]] double of_peak() const { return flops / seconds / gemm.best(); }
  /// The optimizer's time over what its bytes take at the triad's rate.
  [[nodiscard]] double optimizer_over_bandwidth() const {
    return optimizer_seconds * triad / optimizer_bytes;
  }
};

/// A run of a recipe. The constructor takes its first step, which makes gradients and moments.
class RecipeBench {
 public:
  explicit RecipeBench(const std::string& name, std::vector<std::string> changes = {})
      : run_(recipe_of(name, std::move(changes)), communicator_),
        plan_(make_plan(run_.recipe(), run_.data().tokenizer->vocab_size(), 0)) {
    (void)step();
  }

  [[nodiscard]] StepSample step() {
    CostMeter& meter = run_.meter();
    meter.reset();
    const StepResult result = run_.step();
    SLUICE_INTERNAL_CHECK(result.applied, "the step was skipped: {}", result.problem);
    const CostMeter::Entry optimizer = meter.phase_total(Phase::optimizer);
    return {.seconds = result.seconds,
            .optimizer_seconds = optimizer.seconds,
            .optimizer_bytes = optimizer.bytes,
            .routing_seconds = meter.phase_total(Phase::routing).seconds,
            .balancing_seconds = meter.phase_total(Phase::balancing).seconds,
            .flops = meter.useful_flops(),
            .tokens = static_cast<double>(result.tokens)};
  }
  [[nodiscard]] const Plan& plan() const { return plan_; }
  [[nodiscard]] int64_t peak_bytes() const { return run_.pool().peak().total(); }

 private:
  /// Long enough that no benchmark reaches the end of its run.
  static Recipe recipe_of(const std::string& name, std::vector<std::string> changes) {
    changes.emplace_back("train.steps=100000");
    return shipped_recipe(name, std::move(changes));
  }
  SingleRank communicator_;
  Run run_;
  Plan plan_;
};

/// Takes steps and measures the machine between them.
class StepWithMachine {
 public:
  [[nodiscard]] StepSample operator()(RecipeBench& bench) {
    if (!measured_) measure();
    const GemmRates gemm = gemm_;
    const double triad = triad_;
    StepSample sample = bench.step();
    measure();
    sample.gemm = gemm;
    sample.gemm.add(gemm_);
    sample.triad = (triad + triad_) / 2;
    return sample;
  }
  /// After a pause, or with another number of threads, the machine before is no longer the machine.
  void forget() { measured_ = false; }

 private:
  void measure() {
    gemm_ = yardstick_.measure();
    triad_ = measure_triad_peak();
    measured_ = true;
  }
  GemmYardstick yardstick_;
  GemmRates gemm_;
  double triad_ = 0.0;
  bool measured_ = false;
};

}  // namespace sluice::bench
