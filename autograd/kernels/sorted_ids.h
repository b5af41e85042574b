#pragma once
// Places of equal numbers brought together, so that a table's row is written by one thread.

#include <algorithm>
#include <cstdint>

namespace sluice::kernels {

/// Table rows of one block: few enough that frequent ids spread over threads, enough that an unused
/// stretch is cheap to skip.
inline constexpr int64_t kTableBlock = 64;

/// Stable counting sort: id v stands at order[start[v]] .. order[start[v + 1] - 1], increasing.
/// `start` is [V + 2], `order` is [N].
inline void sort_by_id(int64_t N, int64_t V, const int32_t* id, int64_t* start, int64_t* order) {
  // start[v + 2] counts id v; summed up, start[v + 1] is where v starts; filling moves it to where
  // v ends, which is where v + 1 starts.
  std::fill_n(start, V + 2, int64_t{0});
  for (int64_t n = 0; n < N; ++n) ++start[id[n] + 2];
  for (int64_t v = 2; v <= V + 1; ++v) start[v] += start[v - 1];
  for (int64_t n = 0; n < N; ++n) order[start[id[n] + 1]++] = n;
}

}  // namespace sluice::kernels
