// What balancing costs: whole steps of moe_small under each method, with the time inside the
// balancing phase (prices, plans, losses and their backward, combine weights of a method's own, what
// it learns at the end of a step) over the step's time, and the counting pass of
// global_aux_loss `exact` apart, as a share of the step's ordinary forward passes.

#include <memory>
#include <string>

#include "bench/training.h"

namespace sluice::bench {
namespace {

/// A step takes seconds, and what is measured is a share of it.
constexpr int kTurns = 3;

struct Method {
  const char* name;
  const char* balance;
  int64_t micro_batches = 1;
};

/// load_loss and null_expert_loss ask for routers of their own and are left out.
constexpr Method kMethods[] = {
    {"none", "{type: none}"},
    {"loss_free_bias", "{type: loss_free_bias}"},
    {"global_aux_loss_running", "{type: global_aux_loss, counts: running}"},
    {"global_aux_loss_previous", "{type: global_aux_loss, counts: previous}"},
    {"global_aux_loss_exact", "{type: global_aux_loss, counts: exact}"},
    {"bip_4", "{type: bip, iterations: 4}"},
    {"none", "{type: none}", 4},
    {"loss_free_bias", "{type: loss_free_bias}", 4},
    {"global_aux_loss_running", "{type: global_aux_loss, counts: running}", 4},
    {"global_aux_loss_previous", "{type: global_aux_loss, counts: previous}", 4},
    {"global_aux_loss_exact", "{type: global_aux_loss, counts: exact}", 4},
    {"bip_4", "{type: bip, iterations: 4}", 4},
    {"aux_loss", "{type: aux_loss}"},
    {"sequence_aux_loss", "{type: sequence_aux_loss}"},
    {"device_aux_loss", "{type: device_aux_loss, groups: 4}"},
    {"importance_loss", "{type: importance_loss}"},
    {"entropy_loss", "{type: entropy_loss}"},
    {"mutual_information", "{type: mutual_information}"},
    {"router_z_loss", "{type: router_z_loss}"},
    {"quantile", "{type: quantile}"},
    {"sinkhorn", "{type: sinkhorn}"},
    {"selective_sinkhorn", "{type: selective_sinkhorn}"},
    {"selective_sinkhorn_planned", "{type: selective_sinkhorn, probability: 1.0}"},
    {"base", "{type: base}"},
    {"sparse_transport", "{type: sparse_transport}"},
    {"expert_choice", "{type: expert_choice}"},
};

TrainingBench& training() {
  static TrainingBench bench(shipped_recipe("moe_small", {}));
  return bench;
}

void measure(benchmark::State& state, TrainingBench::Variant& variant) {
  CostMeter& meter = variant.meter();
  meter.reset();
  double seconds = 0.0;
  for (auto _ : state) {
    const StepResult step = variant.run(10);
    state.SetIterationTime(step.seconds);
    seconds += step.seconds;
  }
  const double counting = meter.direction_total(Direction::extra).seconds;
  const double balancing = meter.at(Phase::balancing, Direction::forward).seconds +
                           meter.at(Phase::balancing, Direction::backward).seconds;
  const double forward = meter.direction_total(Direction::forward).seconds -
                         meter.at(Phase::optimizer, Direction::forward).seconds;
  state.counters["balancing_%"] = 100.0 * balancing / seconds;
  state.counters["routing_%"] = 100.0 * meter.phase_total(Phase::routing).seconds / seconds;
  state.counters["counting_%"] = 100.0 * counting / seconds;
  state.counters["counting_of_forward_%"] = 100.0 * counting / forward;
}

void add(const Method& method) {
  const auto made = std::make_shared<std::unique_ptr<TrainingBench::Variant>>();
  const auto run = [=](benchmark::State& state) {
    TrainingBench& bench = training();
    if (!*made) {
      const Recipe recipe =
          shipped_recipe("moe_small", {fmt::format("balance={}", method.balance)});
      *made = std::make_unique<TrainingBench::Variant>(
          bench, recipe, bench.sizes().tokens_per_step / method.micro_batches);
    }
    measure(state, **made);
  };
  const std::string name =
      fmt::format("balancing/{}/micro_batches:{}", method.name, method.micro_batches);
  add_rounds(name, 1, run);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& method : sluice::bench::kMethods) sluice::bench::add(method);
  return sluice::bench::run_in_turns(argc, argv, sluice::bench::kTurns);
}
