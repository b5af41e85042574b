// Decoding one sequence, token by token, behind a prompt of 128 to 8192 tokens: whole models of equal
// size with attention, Mamba-2, and a hybrid of both (sequence_models.h).
//
// decoding/MODEL:LENGTH
//   tokens/s          of the tokens behind the prompt
//   prompt_tokens/s   of the prompt, read at once
//   state_bytes       what the layers keep between tokens, for a sequence that ends there
//
//   build/release/bench/bench_decoding --benchmark_filter='mamba2|hybrid'

#include <fmt/format.h>

#include "bench/figures.h"
#include "bench/run_benchmarks.h"
#include "bench/sequence_models.h"

namespace sluice::bench {
namespace {

constexpr int64_t kVocabulary = 4096;
constexpr int64_t kDecoded = 64;
constexpr int64_t kRounds = 1;

struct Kind {
  const char* name;
  const char* pattern;
};
constexpr Kind kKinds[] = {
    {"attention", "(AF)x6"}, {"mamba2", "Mx8"}, {"hybrid", "(MF)x2 AF (MF)x3"}};

void measure(benchmark::State& state, const Kind& kind, int64_t length) {
  SequenceModel bench(kind.pattern, kVocabulary);
  const std::vector<int32_t> prompt = bench.random_tokens(length);
  Figures figures;
  for (auto _ : state) {
    const int64_t before = bench.pool().in_use().total();
    DecodeState decoding = bench.model().start_decoding(bench.pool(), length + kDecoded);
    const auto state_bytes = static_cast<double>(bench.pool().in_use().total() - before);
    const double start = wall_seconds();
    (void)bench.decode(prompt, decoding);
    const double read = wall_seconds();
    for (int64_t i = 0; i < kDecoded; ++i) {
      (void)bench.decode({prompt[static_cast<size_t>(i % length)]}, decoding);
    }
    const double seconds = wall_seconds() - read;
    state.SetIterationTime(seconds);
    figures.add("tokens/s", static_cast<double>(kDecoded) / seconds);
    figures.add("prompt_tokens/s", static_cast<double>(length) / (read - start));
    figures.add("state_bytes", state_bytes);
  }
  figures.report(state);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& kind : sluice::bench::kKinds) {
    for (const int64_t length : {128, 1024, 8192}) {
      sluice::bench::add_rounds(
          fmt::format("decoding/{}:{}", kind.name, length), sluice::bench::kRounds,
          [=](benchmark::State& state) { sluice::bench::measure(state, kind, length); });
    }
  }
  return sluice::bench::run_benchmarks(argc, argv);
}
