// Whole training steps of the sizes S, M and L (recipes/sizes) and of the shipped pair dense_small and
// moe_small: the dense model and the Mixture-of-Experts model of equal active FLOPs take turns. The
// benchmark's time is that of the Mixture-of-Experts step. Counters, each the median of the rounds of
// one repetition:
//
//   tokens/s, ms                    of a whole step; forward_backward_ms without the optimizer
//   of_peak                         useful FLOP/s over those of the best library's 1024^3 product, the
//                                   median of products just before and after the step on the same
//                                   threads. Useful: the forward's products times three, attention
//                                   over the allowed pairs only, recomputation not counted
//   moe_over_dense[_whole_step]     time of the two steps of one round, without and with the optimizer
//   routing_share                   routing, dispatch and combine, of the whole step
//   optimizer_over_bandwidth        time of gradient norm and update over that of the bytes that they
//                                   must move, at the triad's rate just before and after
//   MiB, planned_MiB                tensors at the peak, measured and as `sluice plan` says
//   gemm_LIBRARY_FLOP/s, triad_bytes/s   the machine

#include <memory>

#include "bench/step_bench.h"

namespace sluice::bench {
namespace {

constexpr double kMiB = 1024.0 * 1024.0;

struct Pair {
  const char* name;
  const char* dense;
  const char* moe;
  int64_t rounds;  // a repetition
};

constexpr Pair kPairs[] = {{"S", "sizes/s_dense", "sizes/s_moe", 6},
                           {"M", "sizes/m_dense", "sizes/m_moe", 3},
                           {"L", "sizes/l_dense", "sizes/l_moe", 1},
                           {"small", "dense_small", "moe_small", 1}};

/// Both models of a pair.
struct Models {
  explicit Models(const Pair& pair) : name(pair.name), dense(pair.dense), moe(pair.moe) {}
  std::string name;
  RecipeBench dense;
  RecipeBench moe;
};

/// One pair at a time: those of L together hold several GiB.
Models& models_of(const Pair& pair) {
  static std::unique_ptr<Models> current;
  if (!current || current->name != pair.name) {
    current.reset();
    current = std::make_unique<Models>(pair);
  }
  return *current;
}

void add_step(Figures& figures, const std::string& model, const StepSample& step) {
  const auto add = [&](const char* what, double value) {
    figures.add(fmt::format("{}_{}", model, what), value);
  };
  add("tokens/s", step.tokens / step.seconds);
  add("ms", 1e3 * step.seconds);
  add("forward_backward_ms", 1e3 * step.forward_backward());
  add("of_peak", step.of_peak());
  add("optimizer_share", step.optimizer_seconds / step.seconds);
  add("optimizer_over_bandwidth", step.optimizer_over_bandwidth());
}

void add_memory(Figures& figures, const std::string& model, const RecipeBench& bench) {
  figures.add(model + "_MiB", static_cast<double>(bench.peak_bytes()) / kMiB);
  figures.add(model + "_planned_MiB", static_cast<double>(bench.plan().peak.total()) / kMiB);
}

void measure(benchmark::State& state, Models& models) {
  Figures figures;
  StepWithMachine step;
  for (auto _ : state) {
    const StepSample dense = step(models.dense);
    const StepSample moe = step(models.moe);
    state.SetIterationTime(moe.seconds);
    add_step(figures, "dense", dense);
    add_step(figures, "moe", moe);
    figures.add("moe_over_dense", moe.forward_backward() / dense.forward_backward());
    figures.add("moe_over_dense_whole_step", moe.seconds / dense.seconds);
    figures.add("moe_routing_share", moe.routing_seconds / moe.seconds);
    figures.add("moe_balancing_share", moe.balancing_seconds / moe.seconds);
    for (const GemmLibrary& library : gemm_libraries()) {
      figures.add(fmt::format("gemm_{}_FLOP/s", library.name), moe.gemm.of(library.name));
    }
    figures.add("triad_bytes/s", moe.triad);
  }
  add_memory(figures, "dense", models.dense);
  add_memory(figures, "moe", models.moe);
  figures.report(state);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  namespace bench = sluice::bench;
  for (const auto& pair : bench::kPairs) {
    bench::add_rounds(
        fmt::format("sizes/{}", pair.name), pair.rounds,
        [pair](benchmark::State& state) { bench::measure(state, bench::models_of(pair)); });
  }
  return bench::run_benchmarks(argc, argv);
}
