#include "train/environment.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <fstream>
#include <vector>

#include "autograd/core/tape.h"
#include "autograd/ops/matmul.h"
#include "autograd/support/parallel.h"
#include "train/checkpoint/checkpoint.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

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

double measure_triad_peak() {
  constexpr int64_t kElements = int64_t{1} << 24;
  constexpr int64_t kRange = int64_t{1} << 18;
  constexpr int kRepetitions = 6;  // the first faults the pages in
  constexpr float kScale = 0.5F;
  Pool pool;
  const auto vector = [&] {
    const BlockRef block =
        pool.allocate(kElements * static_cast<int64_t>(sizeof(float)), MemoryKind::activations);
    auto* values = reinterpret_cast<float*>(block.data());
    parallel_for_ranges(kElements, kRange, [&](int64_t begin, int64_t end) {
      std::fill(values + begin, values + end, 1.0F);
    });
    return block;
  };
  const std::array<BlockRef, 3> blocks = {vector(), vector(), vector()};
  auto* a = reinterpret_cast<float*>(blocks[0].data());
  const auto* b = reinterpret_cast<const float*>(blocks[1].data());
  const auto* c = reinterpret_cast<const float*>(blocks[2].data());
  double best = 0.0;
  for (int i = 0; i < kRepetitions; ++i) {
    const auto start = Clock::now();
    parallel_for_ranges(kElements, kRange, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) a[k] = b[k] + kScale * c[k];
    });
    const double seconds = std::chrono::duration<double>(Clock::now() - start).count();
    best = std::max(best, 3.0 * kElements * sizeof(float) / seconds);
  }
  return best;
}

int64_t peak_resident_bytes() {
  rusage usage{};
  if (getrusage(RUSAGE_SELF, &usage) != 0) return 0;
  return int64_t{usage.ru_maxrss} * 1024;  // Linux counts kibibytes
}

}  // namespace sluice
