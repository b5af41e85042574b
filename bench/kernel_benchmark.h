#pragma once
// A kernel beside what the machine could do at that moment. Cores of shared machines change speed
// without notice, so the limit is measured in turns with the kernel, on as many threads: for kernels
// bound by arithmetic a loop of independent multiply-adds in registers, for kernels bound by memory
// the triad a[i] = b[i] + s c[i] over as many bytes as the kernel moves, which therefore lie in the
// same level of cache.
//
//   add_flops_benchmark("gemm/nt/ffn_small", flops, {1, 2}, [=] { kernels::gemm<float>(...); });
//   add_bytes_benchmark("rms_norm/forward/tokens_4k", bytes, [=] { kernels::rms_norm(...); });
//   return run_benchmarks(argc, argv);
//
// Counters: FLOP/s or bytes/s of the kernel, peak_FLOP/s or peak_bytes/s (the limit's) and of_peak,
// their ratio. Most processors read what the triad writes before they write it, which is not counted: a
// kernel that reads more than it writes, or writes in place, can pass it.

#include <fmt/format.h>

#include <functional>
#include <string>
#include <vector>

#include "bench/random_floats.h"
#include "bench/run_benchmarks.h"
#include "bench/shapes.h"

namespace sluice::bench {

/// `body()` does `flops` floating-point operations. Registered for each of `thread_counts`.
void add_flops_benchmark(const std::string& name, double flops,
                         const std::vector<int>& thread_counts, const std::function<void()>& body);

/// `body()` moves `bytes` bytes.
void add_bytes_benchmark(const std::string& name, double bytes,
                         const std::vector<int>& thread_counts, const std::function<void()>& body);
/// On one thread and on every processor.
void add_bytes_benchmark(const std::string& name, double bytes, const std::function<void()>& body);
/// A kernel's reference, which knows no threads.
void add_reference_benchmark(const std::string& name, double bytes,
                             const std::function<void()>& body);
/// A kernel on one thread and on every processor, and its reference.
void add_bytes_benchmark(const std::string& name, double bytes, const std::function<void()>& body,
                         const std::function<void()>& reference);

/// `body` and `other`, which do the same work, in turns on each of `thread_counts`: the time is
/// body's, the counter over_<other> the ratio of the two medians (below 1: body is faster).
struct OtherWay {
  const char* name;
  std::function<void()> body;
};
void add_turns_benchmark(const std::string& name, const std::vector<int>& thread_counts,
                         const std::function<void()>& body, const OtherWay& other);

/// One thread, and every processor.
[[nodiscard]] std::vector<int> one_and_all_threads();

}  // namespace sluice::bench
