#include "autograd/kernels/top_k.h"

#include <cmath>
#include <numeric>

#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

/// Up to here an insertion into a sorted list beats selecting and sorting.
constexpr int64_t kLargestInsertion = 32;

/// Strictly ahead by value: larger, or a number where b is NaN. Equal values keep the order of
/// their indices.
template <class T>
bool ahead(T a, T b) {
  return !(a <= b) && !std::isnan(a);
}

template <class T>
void insert_largest(int64_t E, int64_t k, const T* scores, int32_t* indices) {
  T values[kLargestInsertion];
  const auto insert = [&](int64_t e, int64_t place) {
    for (; place > 0 && ahead(scores[e], values[place - 1]); --place) {
      values[place] = values[place - 1];
      indices[place] = indices[place - 1];
    }
    values[place] = scores[e];
    indices[place] = static_cast<int32_t>(e);
  };
  for (int64_t e = 0; e < k; ++e) insert(e, e);
  for (int64_t e = k; e < E; ++e) {
    if (ahead(scores[e], values[k - 1])) insert(e, k - 1);
  }
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

}  // namespace

template <class T>
void top_k(int64_t rows, const TopK<T>& args) {
  const int64_t E = args.E;
  const int64_t k = args.k;
  parallel_rows(rows, E, [&](int64_t row) {
    const T* scores = args.scores + row * E;
    int32_t* indices = args.indices + row * k;
    if (k <= kLargestInsertion) {
      insert_largest(E, k, scores, indices);
    } else {
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
