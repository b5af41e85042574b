// Whole training steps of shipped recipes on their own data: tokens per second, FLOP/s of forward
// and backward beside the rate of 1024^3 products measured in turns with the steps, the tensors' peak
// beside what `sluice plan` says, and the share of each part of the model in the step's time.

#include <fmt/format.h>

#include <memory>
#include <string>

#include "bench/memory_bound.h"
#include "train/environment.h"
#include "train/plan.h"
#include "train/run.h"

namespace sluice::bench {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

/// Recipe and run; made when its benchmark is chosen.
class RecipeRun {
 public:
  explicit RecipeRun(const std::string& name)
      : run_(load_recipe({{fmt::format("{}/recipes/{}.yaml", SLUICE_SOURCE_DIR, name)}, {}}),
             communicator_) {
    // The first step makes gradients and moments.
    for (int i = 0; i < 2; ++i) (void)run_.step();
    planned_ = make_plan(run_.recipe(), run_.data().tokenizer->vocab_size(), 0).peak.total();
  }

  void measure(benchmark::State& state) {
    run_.meter().reset();
    double seconds = 0.0;
    double peak_sum = 0.0;
    int64_t tokens = 0;
    for (auto _ : state) {
      peak_sum += measure_gemm_peak();
      const StepResult step = run_.step();
      state.SetIterationTime(step.seconds);
      seconds += step.seconds;
      tokens += step.tokens;
    }
    const double peak = peak_sum / static_cast<double>(state.iterations());
    const double rate = run_.meter().useful_flops() / seconds;
    state.counters["tokens/s"] = static_cast<double>(tokens) / seconds;
    state.counters["FLOP/s"] = rate;
    state.counters["peak"] = peak;
    state.counters["of_peak"] = rate / peak;
    state.counters["planned_MiB"] = static_cast<double>(planned_) / kMiB;
    state.counters["measured_MiB"] = static_cast<double>(run_.pool().peak().total()) / kMiB;
    for (int i = 0; i < kPhases; ++i) {
      const auto phase = static_cast<Phase>(i);
      state.counters[fmt::format("share_{}", name_of(phase))] =
          run_.meter().phase_total(phase).seconds / seconds;
    }
  }

 private:
  SingleRank communicator_;
  Run run_;
  int64_t planned_ = 0;
};

void add(const std::string& recipe, int64_t steps) {
  const auto made = std::make_shared<std::unique_ptr<RecipeRun>>();
  benchmark::RegisterBenchmark(("train_step/" + recipe).c_str(),
                               [=](benchmark::State& state) {
                                 if (!*made) *made = std::make_unique<RecipeRun>(recipe);
                                 (*made)->measure(state);
                               })
      ->Iterations(steps)
      ->Repetitions(kRepetitions)
      ->ReportAggregatesOnly(true)
      ->UseManualTime()
      ->Unit(benchmark::kMillisecond);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add("quickstart", 10);
  sluice::bench::add("dense_small", 2);
  sluice::bench::add("moe_small", 2);
  return sluice::bench::run_benchmarks(argc, argv);
}
