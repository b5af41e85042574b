#include "bench/kernel_benchmark.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "autograd/kernels/simd.h"
#include "autograd/support/parallel.h"
#include "bench/clock.h"
#include "bench/statistics.h"

namespace sluice::bench {
namespace {

/// As many independent sums as hide the latency of a multiply-add and fit into registers.
constexpr int kChains = kernels::kVectorBytes == 64 ? 28 : 12;

/// Multiply-adds of one thread that never leave the registers.
void multiply_add_in_registers(int64_t rounds) {
  using kernels::Vec;
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
}

/// FLOP per second of the loop above on all threads in use, over about a millisecond. A short loop
/// before wakes the threads; many blocks let a thread that comes late do fewer.
double measure_multiply_add_peak() {
  constexpr int64_t kRounds = 10000;
  constexpr int kBlocks = 16;  // a thread
  const int threads = num_threads();
  parallel_for(threads, [](int64_t) { multiply_add_in_registers(kRounds); });
  const double start = working_seconds();
  parallel_for(int64_t{kBlocks} * threads, [](int64_t) { multiply_add_in_registers(kRounds); });
  const double seconds = working_seconds() - start;
  return threads * kBlocks * 2.0 * kChains * static_cast<double>(kernels::Vec<float>::kWidth) *
         kRounds / seconds;
}

/// a[i] = b[i] + s c[i] over `bytes` bytes in all.
class Triad {
 public:
  explicit Triad(double bytes)
      : n_(std::clamp(static_cast<int64_t>(bytes / 12.0), kSmallest, kLargest)),
        a_(static_cast<size_t>(n_), 0.0F),
        b_(a_.size(), 1.0F),
        c_(a_.size(), 2.0F) {}

  /// Bytes per second, over about half a millisecond or one pass. A pass before brings the arrays
  /// back to where a kernel finds its own.
  double measure() {
    constexpr double kSeconds = 5e-4;
    pass();
    const double start = working_seconds();
    double seconds = 0.0;
    int64_t passes = 0;
    do {
      pass();
      ++passes;
      seconds = working_seconds() - start;
    } while (seconds < kSeconds);
    return 12.0 * static_cast<double>(n_ * passes) / seconds;
  }

 private:
  static constexpr int64_t kSmallest = int64_t{1} << 10;
  static constexpr int64_t kSmallestRange = int64_t{1} << 16;  // less is not worth a thread
  static constexpr int64_t kLargest = int64_t{1} << 24;
  static constexpr float kScale = 0.5F;

  void pass() {
    const int64_t range = std::max(kSmallestRange, ceil_div(n_, int64_t{4} * num_threads()));
    float* a = a_.data();
    const float* b = b_.data();
    const float* c = c_.data();
    parallel_for_ranges(n_, range, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) a[i] = b[i] + kScale * c[i];
    });
    benchmark::ClobberMemory();
  }

  int64_t n_;
  std::vector<float> a_, b_, c_;
};

/// A body beside its limit.
struct Measured {
  const char* unit;
  double work;  // of one call, in `unit` times a second
  std::function<void()> body;
  std::function<double()> limit;  // units a second
};

void measure(benchmark::State& state, int threads, const Measured& measured) {
  set_num_threads(threads);
  constexpr double kTurn = 1e-3;  // seconds of work per turn, at least one call
  double seconds = 0.0;
  double peak_sum = 0.0;
  int64_t turns = 0;
  double in_turn = kTurn;
  for (auto _ : state) {
    if (in_turn >= kTurn) {
      peak_sum += measured.limit();
      ++turns;
      in_turn = 0.0;
    }
    const double start = working_seconds();
    measured.body();
    benchmark::ClobberMemory();
    const double elapsed = working_seconds() - start;
    state.SetIterationTime(elapsed);
    seconds += elapsed;
    in_turn += elapsed;
  }
  const double rate = measured.work * static_cast<double>(state.iterations()) / seconds;
  const double peak = peak_sum / static_cast<double>(turns);
  state.counters[measured.unit] = rate;
  state.counters[std::string("peak_") + measured.unit] = peak;
  state.counters["of_peak"] = rate / peak;
}

void add(const std::string& name, int threads, const std::function<void(benchmark::State&)>& run) {
  with_quartiles(
      benchmark::RegisterBenchmark(fmt::format("{}/threads:{}", name, threads).c_str(), run))
      ->UseManualTime()
      ->Unit(benchmark::kMicrosecond);
}

}  // namespace

void add_flops_benchmark(const std::string& name, double flops,
                         const std::vector<int>& thread_counts, const std::function<void()>& body) {
  for (const int threads : thread_counts) {
    add(name, threads, [=](benchmark::State& state) {
      measure(state, threads, {"FLOP/s", flops, body, measure_multiply_add_peak});
    });
  }
}

void add_bytes_benchmark(const std::string& name, double bytes,
                         const std::vector<int>& thread_counts, const std::function<void()>& body) {
  for (const int threads : thread_counts) {
    add(name, threads, [=](benchmark::State& state) {
      Triad triad(bytes);
      measure(state, threads, {"bytes/s", bytes, body, [&triad] { return triad.measure(); }});
    });
  }
}

void add_bytes_benchmark(const std::string& name, double bytes, const std::function<void()>& body) {
  add_bytes_benchmark(name, bytes, one_and_all_threads(), body);
}

void add_reference_benchmark(const std::string& name, double bytes,
                             const std::function<void()>& body) {
  add_bytes_benchmark(name + "/reference", bytes, {1}, body);
}

void add_bytes_benchmark(const std::string& name, double bytes, const std::function<void()>& body,
                         const std::function<void()>& reference) {
  add_bytes_benchmark(name, bytes, body);
  add_reference_benchmark(name, bytes, reference);
}

void add_turns_benchmark(const std::string& name, const std::vector<int>& thread_counts,
                         const std::function<void()>& body, const OtherWay& other) {
  const auto seconds_of_call = [](const std::function<void()>& call) {
    const double start = working_seconds();
    call();
    benchmark::ClobberMemory();
    return working_seconds() - start;
  };
  for (const int threads : thread_counts) {
    add(name, threads, [=](benchmark::State& state) {
      set_num_threads(threads);
      std::vector<double> own;
      std::vector<double> others;
      for (auto _ : state) {
        others.push_back(seconds_of_call(other.body));
        own.push_back(seconds_of_call(body));
        state.SetIterationTime(own.back());
      }
      state.counters[std::string("over_") + other.name] = median(own) / median(others);
    });
  }
}

std::vector<int> one_and_all_threads() {
  std::vector<int> threads{1};
  if (num_processors() > 1) threads.push_back(num_processors());
  return threads;
}

}  // namespace sluice::bench
