#pragma once
// Sums. Every order of addition is fixed by the size of the problem.

#include <cstdint>
#include <span>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

/// sum_i x[i], added in f64.
template <class T>
[[nodiscard]] double sum(int64_t n, const T* x);
/// sum_i x[i]^2, added in f64: squares of f32 neither overflow nor vanish.
template <class T>
[[nodiscard]] double sum_of_squares(int64_t n, const T* x);
/// sums[k] = sum_of_squares of arrays[k], to the same bits, all arrays in one parallel loop that
/// reads at the speed of memory.
template <class T>
void sums_of_squares(std::span<const std::span<const T>> arrays, std::span<double> sums);

/// y[row] = sum_col x[row, col]
template <class T>
void sum_columns(int64_t rows, int64_t cols, const T* x, T* y);
/// y[col] = sum_row x[row, col]
template <class T>
void sum_rows(int64_t rows, int64_t cols, const T* x, const Gradient<T>& y);

/// Divides each row by its sum: total = sum_col x + epsilon,  y = x / total.
template <class T>
struct NormaliseRows {
  const T* x;      // [rows, cols]
  double epsilon;  // 0 or more: added to the sum (1e-20 for sigmoid combine weights)
  T* y;            // [rows, cols]
  T* total;        // [rows]
};

template <class T>
void normalise_rows(int64_t rows, int64_t cols, const NormaliseRows<T>& args);

template <class T>
struct NormaliseRowsBackward {
  const T* y;          // [rows, cols]
  const T* total;      // [rows]
  const T* grad_y;     // [rows, cols]
  Gradient<T> grad_x;  // [rows, cols] = (grad_y - <grad_y, y>) / total
};

template <class T>
void normalise_rows_backward(int64_t rows, int64_t cols, const NormaliseRowsBackward<T>& args);

}  // namespace sluice::kernels
