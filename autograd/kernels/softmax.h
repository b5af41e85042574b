#pragma once
// Softmax over the last dimension, and its logarithm.
//
//   softmax:      y = e^(x - m) / sum e^(x - m),   m = max x
//   log_softmax:  y = x - lse,                     lse = m + log sum e^(x - m)
//
// A row that holds NaN or +infinity, or nothing but -infinity, gives NaN. Rows are independent bit
// for bit.

#include <cstdint>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

template <class T>
void softmax(int64_t rows, int64_t cols, const T* x, T* y);

/// grad_x = y (grad_y - <y, grad_y>)
template <class T>
void softmax_backward(int64_t rows, int64_t cols, const T* y, const T* grad_y,
                      const Gradient<T>& grad_x);

template <class T>
void log_softmax(int64_t rows, int64_t cols, const T* x, T* y);

/// grad_x = grad_y - e^y sum grad_y
template <class T>
void log_softmax_backward(int64_t rows, int64_t cols, const T* y, const T* grad_y,
                          const Gradient<T>& grad_x);

/// lse[row] = log sum_col e^x
template <class T>
void log_sum_exp(int64_t rows, int64_t cols, const T* x, T* lse);

/// grad_x[row, col] = grad_lse[row] e^(x[row, col] - lse[row])
template <class T>
struct LogSumExpBackward {
  const T* x;          // [rows, cols]
  const T* lse;        // [rows]
  const T* grad_lse;   // [rows]
  Gradient<T> grad_x;  // [rows, cols]
};

template <class T>
void log_sum_exp_backward(int64_t rows, int64_t cols, const LogSumExpBackward<T>& args);

}  // namespace sluice::kernels
