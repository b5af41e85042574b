#pragma once
// The parallel loop: the only place that knows OpenMP or oneTBB.
//
// Work is cut by the problem into numbered blocks, never by the number of threads, and a reduction
// adds its blocks in block order: results are bitwise the same on 1 thread and on 16. A loop inside
// a loop runs serially. The first exception (of the lowest block that threw) is rethrown on the
// caller.
//
// Back end: OpenMP, or oneTBB when built with SLUICE_PARALLEL=tbb (thread-sanitizer builds need it,
// since GCC's OpenMP runtime hides its synchronisation from the sanitizer).

#include <algorithm>
#include <cstdint>

#include "autograd/support/arena.h"
#include "autograd/support/function_ref.h"

namespace sluice {

/// Threads that parallel_for may use, at least 1. Process-wide; the number changes speed, never
/// results.
void set_num_threads(int threads);
[[nodiscard]] int num_threads();
/// Processors this process may run on (affinity respected).
[[nodiscard]] int num_processors();
/// "openmp" or "tbb".
[[nodiscard]] const char* parallel_backend();

/// Calls body(block) for block = 0 .. blocks-1, each exactly once, in any order, on any thread.
/// Blocks are handed out one at a time in increasing order, so put heavy ones first when they are
/// uneven.
void parallel_for(int64_t blocks, FunctionRef<void(int64_t)> body);

[[nodiscard]] constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Cuts [0, n) into ranges of `block_size` (the last may be shorter): body(begin, end).
template <class Body>
void parallel_for_ranges(int64_t n, int64_t block_size, Body&& body) {
  const int64_t blocks = ceil_div(n, block_size);
  if (blocks <= 1) {
    if (n > 0) body(int64_t{0}, n);
    return;
  }
  parallel_for(blocks, [&](int64_t block) {
    const int64_t begin = block * block_size;
    body(begin, std::min(n, begin + block_size));
  });
}

/// Sum over [0, n) of partial(begin, end), one call per block of `block_size`, added in block order
/// in T.
template <class T, class Partial>
[[nodiscard]] T parallel_sum(int64_t n, int64_t block_size, Partial&& partial) {
  const int64_t blocks = ceil_div(n, block_size);
  ArenaScope scratch(thread_arena());
  T* sums = scratch.allocate<T>(blocks);
  parallel_for_ranges(n, block_size, [&](int64_t begin, int64_t end) {
    sums[begin / block_size] = partial(begin, end);
  });
  T total{};
  for (int64_t block = 0; block < blocks; ++block) total += sums[block];
  return total;
}

}  // namespace sluice
