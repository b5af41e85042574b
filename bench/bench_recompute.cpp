// What recomputation costs and saves: steps of the sizes S, M and L with experts or all blocks computed
// a second time, in turns with steps of the same model that keep everything. `time_over_plain` and
// `activations_over_plain` are ratios to those; the peak of the activations is the plan's, which is a
// run's to the byte.

#include <memory>
#include <string>

#include "bench/training.h"
#include "train/plan.h"

namespace sluice::bench {
namespace {

constexpr int64_t kVocab = 257;  // of the byte tokenizer

Recipe recipe_of(const std::string& size, const std::string& recompute) {
  return shipped_recipe("sizes/" + size, {"train.recompute=" + recompute});
}

double planned_activations(const Recipe& recipe) {
  return static_cast<double>(make_plan(recipe, kVocab, 0).peak[MemoryKind::activations]);
}

/// One model, with steps of two kinds; made when its benchmark is chosen.
struct Pair {
  Pair(const std::string& size, const std::string& recompute)
      : plain_recipe(recipe_of(size, "none")),
        recipe(recipe_of(size, recompute)),
        bench(plain_recipe),
        plain(bench, plain_recipe, bench.sizes().tokens_per_step),
        recomputed(bench, recipe, bench.sizes().tokens_per_step) {}

  Recipe plain_recipe;
  Recipe recipe;
  TrainingBench bench;
  TrainingBench::Variant plain;
  TrainingBench::Variant recomputed;
};

void add(const std::string& size, const std::string& recompute) {
  const auto made = std::make_shared<std::unique_ptr<Pair>>();
  add_rounds(fmt::format("recompute/{}/{}", size, recompute), 2, [=](benchmark::State& state) {
    if (!*made) *made = std::make_unique<Pair>(size, recompute);
    double plain = 0.0;
    double recomputed = 0.0;
    int64_t step = 0;
    for (auto _ : state) {
      plain += (*made)->plain.run(step).seconds;
      const double seconds = (*made)->recomputed.run(step++).seconds;
      recomputed += seconds;
      state.SetIterationTime(seconds);
    }
    state.counters["time_over_plain"] = recomputed / plain;
    state.counters["activations_over_plain"] =
        planned_activations((*made)->recipe) / planned_activations((*made)->plain_recipe);
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const std::string size : {"s_moe", "m_moe", "l_moe"}) {
    for (const std::string recompute : {"experts", "all"}) sluice::bench::add(size, recompute);
  }
  return sluice::bench::run_benchmarks(argc, argv);
}
