#pragma once
// Benchmarks of kernels that are bound by arithmetic: FLOP/s from counted work, and beside it the
// share of what the machine could do at that moment. Cores of shared machines change speed without
// notice, so the limit is measured in turns with the kernel: a loop of independent multiply-adds in
// registers, on as many threads.
//
//   add_flops_benchmark("gemm/nt/ffn_small", flops, {1, 2}, [=] { kernels::gemm<float>(...); });

#include <ctime>

#include "autograd/kernels/gemm_micro.h"
#include "bench/memory_bound.h"

namespace sluice::bench {

/// Wall time; with one thread in use, that thread's own processor time, which leaves out what other
/// programs take.
[[nodiscard]] inline double seconds_now() {
  timespec now{};
  clock_gettime(num_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// Multiply-adds of one thread that never leave the registers; returns their FLOP.
inline double multiply_add_in_registers(int64_t rounds) {
  using kernels::Vec;
  constexpr int kChains = 2 * static_cast<int>(kernels::kTileRows);
  Vec<float> chain[kChains];
  for (int i = 0; i < kChains; ++i) chain[i] = kernels::broadcast(static_cast<float>(i));
  const Vec<float> a = kernels::broadcast(0.999F);
  const Vec<float> b = kernels::broadcast(1e-3F);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 32
    for (int i = 0; i < kChains; ++i) chain[i] = kernels::fma(chain[i], a, b);
  }
  Vec<float> sum = kernels::zeros<float>();
  for (const Vec<float>& value : chain) sum = sum + value;
  float result = kernels::sum_lanes(sum);
  benchmark::DoNotOptimize(result);
  return 2.0 * kChains * static_cast<double>(Vec<float>::kWidth) * static_cast<double>(rounds);
}

/// FLOP per second of the loop above on all threads in use, over about half a millisecond.
[[nodiscard]] inline double measure_multiply_add_peak() {
  constexpr int64_t kRounds = 40000;
  const int threads = num_threads();
  const double start = seconds_now();
  parallel_for(threads, [](int64_t) { (void)multiply_add_in_registers(kRounds); });
  const double seconds = seconds_now() - start;
  return threads * 2.0 * 2.0 * static_cast<double>(kernels::kTileRows) *
         static_cast<double>(kernels::Vec<float>::kWidth) * kRounds / seconds;
}

/// `body()` does `flops` floating-point operations. Counters: FLOP/s, peak (FLOP/s of the register
/// loop, measured in turns with the body) and of_peak, their ratio.
template <class Body>
void add_flops_benchmark(const std::string& name, double flops,
                         const std::vector<int>& thread_counts, Body body) {
  for (const int threads : thread_counts) {
    benchmark::RegisterBenchmark(
        fmt::format("{}/threads:{}", name, threads).c_str(),
        [=](benchmark::State& state) {
          set_num_threads(threads);
          constexpr double kTurn = 1e-3;  // seconds of work per turn, at least one call
          double seconds = 0.0;
          double peak_sum = 0.0;
          int64_t turns = 0;
          double in_turn = kTurn;
          for (auto _ : state) {
            if (in_turn >= kTurn) {
              peak_sum += measure_multiply_add_peak();
              ++turns;
              in_turn = 0.0;
            }
            const double start = seconds_now();
            body();
            const double elapsed = seconds_now() - start;
            state.SetIterationTime(elapsed);
            seconds += elapsed;
            in_turn += elapsed;
          }
          const double rate = flops * static_cast<double>(state.iterations()) / seconds;
          const double peak = peak_sum / static_cast<double>(turns);
          state.counters["FLOP/s"] = rate;
          state.counters["peak"] = peak;
          state.counters["of_peak"] = rate / peak;
        })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond)
        ->Repetitions(kRepetitions)
        ->ReportAggregatesOnly(true);
  }
}

/// One thread, and every processor.
[[nodiscard]] inline std::vector<int> one_and_all_threads() {
  std::vector<int> threads{1};
  if (num_processors() > 1) threads.push_back(num_processors());
  return threads;
}

}  // namespace sluice::bench
