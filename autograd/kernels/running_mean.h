#pragma once
// The mean of a document's rows so far.
//
//   y_t = (1 / n) sum over s <= t of x_s,   n the rows so far;   backward: dx_s = sum over t >= s of dy_t / n_t
//
// Sums are taken in double, row by row from each document's first, so that y_t has the same bits whatever
// else is computed with it, also when the sums are carried on from where an earlier call left them.
//
// Letters: T rows, D columns, G documents.

#include <cstdint>
#include <span>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

/// Where a document's rows go on: what came before.
struct RunningSums {
  double* sums;  // [D], brought up to date
  int64_t count;
};

/// x, y [T, D]; `documents` [G + 1], from 0 to T. With `state` the first document goes on from it.
/// Parallel over documents and blocks of columns.
template <class T>
void running_mean(int64_t D, std::span<const int64_t> documents, const T* x, T* y,
                  const RunningSums* state = nullptr);

template <class T>
void running_mean_backward(int64_t D, std::span<const int64_t> documents, const T* grad_y,
                           const Gradient<T>& grad_x);

}  // namespace sluice::kernels
