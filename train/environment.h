#pragma once
// The machine under a run: what it is, what it can do, how much memory the process takes.

#include <cstdint>
#include <string>

#include "autograd/support/pool.h"

namespace sluice {

struct Machine {
  std::string processor;      // model name, "unknown processor" when the system does not say
  int processors = 0;         // that this process may run on
  int threads = 0;            // that the parallel loop uses
  int64_t memory_bytes = 0;   // of the machine; 0 when unknown
  std::string parallel_loop;  // "openmp" or "tbb"
  std::string build;          // compiler and instruction set
};

[[nodiscard]] Machine describe_machine();

/// FLOP/s of the best of several 1024 x 1024 x 1024 products in f32, the yardstick of
/// speed/peak_fraction. Takes about a tenth of a second; its memory is gone afterwards.
[[nodiscard]] double measure_gemm_peak();

/// Bytes/s of the best of several a[i] = b[i] + s c[i] over 64 MiB each, more than caches hold: read b
/// and c, write a, which most processors read first (not counted). Takes about a tenth of a second.
[[nodiscard]] double measure_triad_peak();

/// Largest resident size of the process so far; 0 when unknown.
[[nodiscard]] int64_t peak_resident_bytes();

}  // namespace sluice
