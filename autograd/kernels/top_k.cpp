#include "autograd/kernels/top_k.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "autograd/kernels/rows.h"
#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {
namespace {

/// Up to here k searches for the maximum beat selecting and sorting.
constexpr int64_t kMostSearches = 16;

/// Strictly ahead by value: larger, or a number where b is NaN. Equal values keep the order of
/// their indices.
template <class T>
bool ahead(T a, T b) {
  return !(a <= b) && !std::isnan(a);
}

template <class T>
void select_and_sort(int64_t E, int64_t k, const T* scores, int32_t* indices) {
  ArenaScope scratch(thread_arena());
  int32_t* all = scratch.allocate<int32_t>(E);
  std::iota(all, all + E, 0);
  const auto before = [scores](int32_t a, int32_t b) {
    if (ahead(scores[a], scores[b])) return true;
    return !ahead(scores[b], scores[a]) && a < b;
  };
  if (k < E) std::nth_element(all, all + k - 1, all + E, before);
  std::sort(all, all + k, before);
  std::copy_n(all, k, indices);
}

/// The first index of the maximum `largest` of a row of whole registers without NaN.
template <class T>
int32_t first_index_of(int64_t n, const T* row, T largest) {
  // Minus the index where the maximum stands; the largest of those is the first. Exact: n is far
  // below 2^24.
  const Vec<T> nowhere = broadcast(-std::numeric_limits<T>::infinity());
  T minus_lane[Vec<T>::kWidth];
  for (int64_t lane = 0; lane < Vec<T>::kWidth; ++lane) minus_lane[lane] = static_cast<T>(-lane);
  Vec<T> minus_index = load(minus_lane);
  Vec<T> best = nowhere;
  for (int64_t i = 0; i < n; i += Vec<T>::kWidth) {
    best = max(select_less(load(row + i), broadcast(largest), nowhere, minus_index), best);
    minus_index = minus_index - broadcast(static_cast<T>(Vec<T>::kWidth));
  }
  return static_cast<int32_t>(-max_lanes(best));
}

/// k times the maximum of what is left, in a copy of the row where what was taken, and every NaN,
/// is -infinity. Gives up when nothing else is left.
template <class T>
bool search_largest(int64_t E, int64_t k, const T* scores, int32_t* indices) {
  constexpr T kTaken = -std::numeric_limits<T>::infinity();
  ArenaScope scratch(thread_arena());
  // Whole registers, so that the searches have no tail.
  const int64_t padded = ceil_div(E, Vec<T>::kWidth) * Vec<T>::kWidth;
  T* left = scratch.allocate<T>(padded);
  for_each_vector<T>(E, [=](int64_t i, int64_t count) {
    // max gives its second operand for a NaN.
    store(left + i, max(load_first(scores + i, count), broadcast(kTaken)));
  });
  std::fill(left + E, left + padded, kTaken);
  for (int64_t slot = 0; slot < k; ++slot) {
    const T largest = max_of_array(padded, left);
    if (!(largest > kTaken)) return false;
    indices[slot] = first_index_of(padded, left, largest);
    left[indices[slot]] = kTaken;
  }
  return true;
}

}  // namespace

template <class T>
void top_k(int64_t rows, const TopK<T>& args) {
  const int64_t E = args.E;
  const int64_t k = args.k;
  parallel_rows(rows, E, [&](int64_t row) {
    const T* scores = args.scores + row * E;
    int32_t* indices = args.indices + row * k;
    if (k > kMostSearches || !search_largest(E, k, scores, indices)) {
      select_and_sort(E, k, scores, indices);
    }
    if (args.values == nullptr) return;
    for (int64_t slot = 0; slot < k; ++slot) args.values[row * k + slot] = scores[indices[slot]];
  });
}

template <class T>
void gather_columns(int64_t rows, int64_t E, int64_t slots, const int32_t* index, const T* x,
                    T* y) {
  parallel_rows(rows, slots, [&](int64_t row) {
    for (int64_t i = row * slots; i < (row + 1) * slots; ++i) {
      y[i] = index[i] < 0 ? T{0} : x[row * E + index[i]];
    }
  });
}

template <class T>
void gather_columns_backward(int64_t rows, const GatherColumnsBackward<T>& args) {
  parallel_rows(rows, args.E, [&](int64_t row) {
    T* grad_x = args.grad_x.data + row * args.E;
    if (!args.grad_x.accumulate) std::fill_n(grad_x, args.E, T{0});
    for (int64_t i = row * args.slots; i < (row + 1) * args.slots; ++i) {
      if (args.index[i] >= 0) grad_x[args.index[i]] += args.grad_y[i];
    }
  });
}

#define SLUICE_INSTANTIATE(T)                                                            \
  template void top_k(int64_t, const TopK<T>&);                                          \
  template void gather_columns(int64_t, int64_t, int64_t, const int32_t*, const T*, T*); \
  template void gather_columns_backward(int64_t, const GatherColumnsBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
