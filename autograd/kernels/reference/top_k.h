#pragma once
// top_k by sorting whole rows, as its definition says.

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "autograd/kernels/top_k.h"

namespace sluice::kernels::reference {

template <class T>
void top_k(int64_t rows, const TopK<T>& args) {
  for (int64_t row = 0; row < rows; ++row) {
    const T* scores = args.scores + row * args.E;
    std::vector<int32_t> order(static_cast<size_t>(args.E));
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [scores](int32_t a, int32_t b) {
      if (std::isnan(scores[a]) || std::isnan(scores[b]))
        return !std::isnan(scores[a]) && std::isnan(scores[b]);
      return scores[a] > scores[b];
    });
    for (int64_t slot = 0; slot < args.k; ++slot) {
      const int32_t e = order[static_cast<size_t>(slot)];
      args.indices[row * args.k + slot] = e;
      if (args.values != nullptr) args.values[row * args.k + slot] = scores[e];
    }
  }
}

template <class T>
void gather_columns(int64_t rows, int64_t E, int64_t slots, const int32_t* index, const T* x,
                    T* y) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t slot = 0; slot < slots; ++slot) {
      const int32_t chosen = index[row * slots + slot];
      y[row * slots + slot] = chosen < 0 ? T{0} : x[row * E + chosen];
    }
  }
}

template <class T>
void gather_columns_backward(int64_t rows, const GatherColumnsBackward<T>& args) {
  zero_unless_accumulating(args.grad_x, rows * args.E);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t slot = 0; slot < args.slots; ++slot) {
      const int64_t i = row * args.slots + slot;
      if (args.index[i] < 0) continue;
      args.grad_x.data[row * args.E + args.index[i]] += args.grad_y[i];
    }
  }
}

}  // namespace sluice::kernels::reference
