#pragma once
// Softmax and its relatives as plain loops.

#include <algorithm>
#include <cmath>
#include <vector>

#include "autograd/kernels/softmax.h"

namespace sluice::kernels::reference {

template <class T>
void log_sum_exp(int64_t rows, int64_t cols, const T* x, T* lse) {
  for (int64_t row = 0; row < rows; ++row) {
    const T m = *std::max_element(x + row * cols, x + (row + 1) * cols);
    T sum = 0;
    for (int64_t col = 0; col < cols; ++col) sum += std::exp(x[row * cols + col] - m);
    lse[row] = m + std::log(sum);
  }
}

template <class T>
void log_softmax(int64_t rows, int64_t cols, const T* x, T* y) {
  std::vector<T> lse(static_cast<size_t>(rows));
  reference::log_sum_exp(rows, cols, x, lse.data());
  for (int64_t i = 0; i < rows * cols; ++i) y[i] = x[i] - lse[static_cast<size_t>(i / cols)];
}

template <class T>
void softmax(int64_t rows, int64_t cols, const T* x, T* y) {
  reference::log_softmax(rows, cols, x, y);
  for (int64_t i = 0; i < rows * cols; ++i) y[i] = std::exp(y[i]);
}

template <class T>
void softmax_backward(int64_t rows, int64_t cols, const T* y, const T* grad_y,
                      const Gradient<T>& grad_x) {
  for (int64_t row = 0; row < rows; ++row) {
    T dot = 0;
    for (int64_t i = row * cols; i < (row + 1) * cols; ++i) dot += y[i] * grad_y[i];
    put_gradient(grad_x.from(row * cols), cols, [&](int64_t col) {
      return y[row * cols + col] * (grad_y[row * cols + col] - dot);
    });
  }
}

template <class T>
void log_softmax_backward(int64_t rows, int64_t cols, const T* y, const T* grad_y,
                          const Gradient<T>& grad_x) {
  for (int64_t row = 0; row < rows; ++row) {
    T total = 0;
    for (int64_t i = row * cols; i < (row + 1) * cols; ++i) total += grad_y[i];
    put_gradient(grad_x.from(row * cols), cols, [&](int64_t col) {
      return grad_y[row * cols + col] - std::exp(y[row * cols + col]) * total;
    });
  }
}

template <class T>
void log_sum_exp_backward(int64_t rows, int64_t cols, const LogSumExpBackward<T>& args) {
  put_gradient(args.grad_x, rows * cols, [&](int64_t i) {
    return args.grad_lse[i / cols] * std::exp(args.x[i] - args.lse[i / cols]);
  });
}

}  // namespace sluice::kernels::reference
