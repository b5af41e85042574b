#pragma once
// The sums of reduce.h as plain loops.

#include "autograd/kernels/reduce.h"

namespace sluice::kernels::reference {

template <class T>
double sum(int64_t n, const T* x) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += static_cast<double>(x[i]);
  return total;
}

template <class T>
double sum_of_squares(int64_t n, const T* x) {
  double total = 0;
  for (int64_t i = 0; i < n; ++i) total += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return total;
}

template <class T>
void sum_columns(int64_t rows, int64_t cols, const T* x, T* y) {
  for (int64_t row = 0; row < rows; ++row) {
    y[row] = 0;
    for (int64_t col = 0; col < cols; ++col) y[row] += x[row * cols + col];
  }
}

template <class T>
void sum_rows(int64_t rows, int64_t cols, const T* x, const Gradient<T>& y) {
  zero_unless_accumulating(y, cols);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) y.data[col] += x[row * cols + col];
  }
}

template <class T>
void normalise_rows(int64_t rows, int64_t cols, const NormaliseRows<T>& args) {
  for (int64_t row = 0; row < rows; ++row) {
    T total = static_cast<T>(args.epsilon);
    for (int64_t col = 0; col < cols; ++col) total += args.x[row * cols + col];
    for (int64_t col = 0; col < cols; ++col) {
      args.y[row * cols + col] = args.x[row * cols + col] / total;
    }
    args.total[row] = total;
  }
}

template <class T>
void normalise_rows_backward(int64_t rows, int64_t cols, const NormaliseRowsBackward<T>& args) {
  zero_unless_accumulating(args.grad_x, rows * cols);
  for (int64_t row = 0; row < rows; ++row) {
    T dot = 0;
    for (int64_t col = 0; col < cols; ++col) {
      dot += args.grad_y[row * cols + col] * args.y[row * cols + col];
    }
    for (int64_t col = 0; col < cols; ++col) {
      args.grad_x.data[row * cols + col] += (args.grad_y[row * cols + col] - dot) / args.total[row];
    }
  }
}

}  // namespace sluice::kernels::reference
