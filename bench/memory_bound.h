#pragma once
// Benchmarks of kernels that are bound by memory: each reports the bytes that it must move per
// second, as median and spread of repetitions, on one thread and on all, for the kernel and for its
// plain reference. Compare them with the triad's bytes per second on the same machine.
//
//   int main(int argc, char** argv) {
//     add_bytes_benchmark("rms_norm/forward/tokens_4k", bytes, [=] { kernels::rms_norm(...); });
//     return run_benchmarks(argc, argv);
//   }

#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <string>
#include <vector>

#include "autograd/support/parallel.h"
#include "autograd/support/rng.h"

namespace sluice::bench {

/// Rows of a given width, as recipes have them.
struct RowsShape {
  const char* name;
  int64_t rows;
  int64_t cols;
};

inline constexpr RowsShape kHidden[] = {{"tokens_2k_hidden_256", 2048, 256},
                                        {"tokens_4k_hidden_512", 4096, 512}};
inline constexpr RowsShape kFeedForward[] = {{"tokens_2k_ffn_768", 2048, 768},
                                             {"tokens_8k_expert_256", 8192, 256}};
inline constexpr RowsShape kRouter[] = {{"tokens_8k_experts_16", 8192, 16},
                                        {"tokens_8k_experts_128", 8192, 128}};

/// Uniform in [-1, 1), the same every time.
inline std::vector<float> random_floats(int64_t n, uint64_t seed) {
  std::vector<float> result(static_cast<size_t>(n));
  for (size_t i = 0; i < result.size(); ++i) {
    result[i] = static_cast<float>(2.0 * uniform({.seed = seed}, 0, i) - 1.0);
  }
  return result;
}

inline constexpr int kRepetitions = 5;

/// `body()` moves `bytes` bytes. Registered for each of `thread_counts`.
template <class Body>
void add_bytes_benchmark(const std::string& name, double bytes, std::vector<int> thread_counts,
                         Body body) {
  for (const int threads : thread_counts) {
    benchmark::RegisterBenchmark(fmt::format("{}/threads:{}", name, threads).c_str(),
                                 [=](benchmark::State& state) {
                                   set_num_threads(threads);
                                   for (auto _ : state) {
                                     body();
                                     benchmark::ClobberMemory();
                                   }
                                   state.SetBytesProcessed(static_cast<int64_t>(
                                       bytes * static_cast<double>(state.iterations())));
                                 })
        ->UseRealTime()
        ->Unit(benchmark::kMicrosecond)
        ->Repetitions(kRepetitions)
        ->ReportAggregatesOnly(true);
  }
}

/// A kernel, on one thread and on every processor.
template <class Body>
void add_bytes_benchmark(const std::string& name, double bytes, Body body) {
  std::vector<int> threads{1};
  if (num_processors() > 1) threads.push_back(num_processors());
  add_bytes_benchmark(name, bytes, std::move(threads), std::move(body));
}

/// Its reference, which knows no threads.
template <class Body>
void add_reference_benchmark(const std::string& name, double bytes, Body body) {
  add_bytes_benchmark(name + "/reference", bytes, {1}, std::move(body));
}

inline int run_benchmarks(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}

}  // namespace sluice::bench
