// Generation, one token at a time, with the weight matrices in f32 and in bf16 (`sluice generate
// --weights bf16`), in turns. Figures: tokens/s of both, over_f32 (the ratio of the two times; below 1:
// bf16 is faster), MiB of the parameters of both.

#include <memory>
#include <vector>

#include "bench/clock.h"
#include "bench/step_bench.h"
#include "train/generate.h"

namespace sluice::bench {
namespace {

constexpr int64_t kTokens = 32;

/// A model of the recipe's sizes at its initial values: speed does not depend on them. Bytes stand for
/// the recipe's tokenizer.
TrainedModel untrained(const std::string& name, WeightStorage weights) {
  TrainedModel result;
  result.recipe = shipped_recipe(name, {});
  result.tokenizer = deserialize_tokenizer("bytes", "bytes 257");
  result.pool = std::make_unique<Pool>();
  result.model = build_model(result.recipe, *result.pool, result.tokenizer->vocab_size());
  result.routing = build_routing(result.recipe);
  if (weights == WeightStorage::f32) return result;
  for (Parameter* parameter : result.model->parameters()) parameter->store_in_bf16(*result.pool);
  result.pool->trim();
  return result;
}

double seconds_a_token(TrainedModel& trained) {
  const std::vector<int32_t> prompt{65};
  const double start = working_seconds();
  const Generation result = generate(trained, prompt, {.max_tokens = kTokens},
                                     [](std::string_view text) { benchmark::DoNotOptimize(text); });
  return (working_seconds() - start) / static_cast<double>(result.tokens.size());
}

double parameter_mib(const TrainedModel& trained) {
  return static_cast<double>(trained.pool->in_use()[MemoryKind::parameters]) / (1 << 20);
}

void measure(benchmark::State& state, const std::string& name, int threads) {
  set_num_threads(threads);
  TrainedModel f32 = untrained(name, WeightStorage::f32);
  TrainedModel bf16 = untrained(name, WeightStorage::bf16);
  Figures figures;
  for (auto _ : state) {
    const double wide = seconds_a_token(f32);
    const double narrow = seconds_a_token(bf16);
    state.SetIterationTime(narrow);
    figures.add("f32_tokens/s", 1.0 / wide);
    figures.add("bf16_tokens/s", 1.0 / narrow);
    figures.add("over_f32", narrow / wide);
    figures.add("f32_MiB", parameter_mib(f32));
    figures.add("bf16_MiB", parameter_mib(bf16));
  }
  figures.report(state);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using sluice::bench::measure;
  for (const std::string name : {"s_moe", "m_moe", "l_moe", "l_dense"}) {
    for (int threads = 1;; threads = sluice::num_processors()) {
      sluice::bench::add_rounds(
          fmt::format("decode/{}/threads:{}", name, threads), 10,
          [=](benchmark::State& state) { measure(state, "sizes/" + name, threads); });
      if (threads == sluice::num_processors()) break;
    }
  }
  return sluice::bench::run_benchmarks(argc, argv);
}
