#pragma once
// The k largest of each row, in order of (value descending, index ascending); NaN sorts after every
// number. The choice of a row depends on that row alone, and is the same everywhere.

#include <cstdint>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

/// Rows of E scores, of which k (1 .. E) are chosen.
template <class T>
struct TopK {
  int64_t E;
  int64_t k;
  const T* scores;   // [rows, E]
  T* values;         // [rows, k], largest first; null when not wanted
  int32_t* indices;  // [rows, k], 0 .. E-1
};

/// Up to k = 16: k searches of the row, a register at a time. Past that, and for rows whose choice
/// reaches -infinity or NaN: a selection of O(E) and a sort of O(k log k).
template <class T>
void top_k(int64_t rows, const TopK<T>& args);

/// y[row, slot] = x[row, index[row, slot]], with `slots` per row of E; 0 where the index is
/// negative.
template <class T>
void gather_columns(int64_t rows, int64_t E, int64_t slots, const int32_t* index, const T* x, T* y);

/// grad_x[row, e] = sum over slots with index[row, slot] = e, in increasing slot, of grad_y[row,
/// slot]
template <class T>
struct GatherColumnsBackward {
  int64_t E;
  int64_t slots;
  const int32_t* index;  // [rows, slots]
  const T* grad_y;       // [rows, slots]
  Gradient<T> grad_x;    // [rows, E]
};

template <class T>
void gather_columns_backward(int64_t rows, const GatherColumnsBackward<T>& args);

}  // namespace sluice::kernels
