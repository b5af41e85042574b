#include "train/environment.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <fstream>
#include <vector>

#include "autograd/core/tape.h"
#include "autograd/ops/matmul.h"
#include "autograd/support/parallel.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice {
namespace {

std::string processor_name() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

}  // namespace

Machine describe_machine() {
  const int64_t pages = sysconf(_SC_PHYS_PAGES);
  return {.processor = processor_name(),
          .processors = num_processors(),
          .threads = num_threads(),
          .memory_bytes = pages > 0 ? pages * sysconf(_SC_PAGE_SIZE) : 0,
          .parallel_loop = parallel_backend(),
          .build = build_fingerprint()};
}

double measure_gemm_peak() {
  using Clock = std::chrono::steady_clock;
  constexpr int64_t kSize = 1024;
  constexpr int kRepetitions = 6;  // the first warms caches and clocks
  Pool pool;
  Tape tape(pool);
  const std::vector<float> values(static_cast<size_t>(kSize * kSize), 0.5f);
  const Tensor a = Tensor::of<float>(pool, {kSize, kSize}, values);
  double best = 0.0;
  for (int i = 0; i < kRepetitions; ++i) {
    const auto start = Clock::now();
    const Tensor product = matmul(tape, a, a);
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, 2.0 * kSize * kSize * kSize / seconds);
  }
  return best;
}

int64_t peak_resident_bytes() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return int64_t{usage.ru_maxrss} * 1024;  // Linux counts kibibytes
}

}  // namespace sluice
