// Steps of the quickstart's model as a gate goes from dense (all experts) to sparse: what a token
// does not use costs nothing, so that the step's time falls with the experts per token. Beside the
// time stand the experts per token that were counted, and the step's FLOPs.

#include <memory>
#include <string>
#include <vector>

#include "bench/training.h"

namespace sluice::bench {
namespace {

struct Gate {
  const char* name;
  std::vector<std::string> changes;
  std::vector<int64_t> steps;  // of a run of 500
};

const std::vector<Gate>& gates() {
  static const std::vector<Gate> result = {
      {"top_k_schedule",
       {"model.experts.top_k={type: linear, from: 8, to: 2, over: 400 steps}"},
       {0, 133, 266, 400}},
      // tau from 2 to 0.05.
      {"dense_to_sparse",
       {"model.experts.top_k=8",
        "model.experts.router={type: dense_to_sparse, threshold: 5.0e-2, temperature: {type: "
        "linear, from: 2.0, to: 0.05, over: 400 steps}}"},
       {0, 133, 266, 400}}};
  return result;
}

/// The quickstart with a gate; experts wide enough to matter.
Recipe recipe_of(const Gate& gate) {
  std::vector<std::string> changes = gate.changes;
  changes.emplace_back("balance={type: none}");
  changes.emplace_back("model.experts.intermediate_size=256");
  return shipped_recipe("quickstart", changes);
}

struct Made {
  std::unique_ptr<TrainingBench> bench;
  std::unique_ptr<TrainingBench::Variant> variant;
};

double experts_per_token(const RoutingSession& routing) {
  double assignments = 0.0;
  double tokens = 0.0;
  for (const LayerLoad& load : routing.loads()) {
    for (const int64_t count : load.counts) assignments += static_cast<double>(count);
    tokens += static_cast<double>(load.tokens);
  }
  return assignments / tokens;
}

void add(const Gate& gate) {
  const auto made = std::make_shared<Made>();
  for (const int64_t step : gate.steps) {
    const auto run = [=](benchmark::State& state) {
      if (!made->bench) {
        const Recipe recipe = recipe_of(gate);
        made->bench = std::make_unique<TrainingBench>(recipe);
        made->variant = std::make_unique<TrainingBench::Variant>(
            *made->bench, recipe, made->bench->sizes().tokens_per_step);
      }
      CostMeter& meter = made->variant->meter();
      meter.reset();
      double steps = 0.0;
      for (auto _ : state) {
        state.SetIterationTime(made->variant->run(step).seconds);
        ++steps;
      }
      const auto tokens = static_cast<double>(made->bench->sizes().tokens_per_step);
      state.counters["experts_per_token"] = experts_per_token(made->variant->routing());
      state.counters["MFLOP_per_token"] = meter.useful_flops() / steps / tokens / 1e6;
      state.counters["experts_ms"] = 1e3 * meter.phase_total(Phase::experts).seconds / steps;
    };
    add_rounds(fmt::format("dense_to_sparse/{}/step:{}", gate.name, step), 2, run);
  }
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& gate : sluice::bench::gates()) sluice::bench::add(gate);
  return sluice::bench::run_in_turns(argc, argv);
}
