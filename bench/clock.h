#pragma once
// The clocks that benchmarks read.

#include <ctime>

#include "autograd/support/parallel.h"

namespace sluice::bench {

[[nodiscard]] inline double seconds_of(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

[[nodiscard]] inline double wall_seconds() { return seconds_of(CLOCK_MONOTONIC); }

/// Wall time; with one thread in use, that thread's own processor time, which leaves out what other
/// programs take.
[[nodiscard]] inline double working_seconds() {
  return seconds_of(num_threads() == 1 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC);
}

}  // namespace sluice::bench
