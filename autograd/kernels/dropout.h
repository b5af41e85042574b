#pragma once
// Dropout with a mask that is a pure function of (key, global sample, position, column), never of
// the micro-batch or the thread (Srivastava et al. 2014, "Dropout", in its inverted form: kept
// values are divided by 1 - rate). Nothing is saved: the backward makes the same mask again.

#include <cstdint>

#include "autograd/kernels/gradient.h"
#include "autograd/support/rng.h"

namespace sluice::kernels {

struct Dropout {
  RandomKey key;
  double rate;              // 0 .. below 1: the probability of a zero, kept to 2^-32
  const int64_t* sample;    // [rows]: number of the row's sequence in the whole run
  const int32_t* position;  // [rows]: place of the row in its sequence
};

/// y = mask * x / (1 - rate). Elements 4 c .. 4 c + 3 of a row share the random number of index
/// position * ceil(cols / 4)
/// + c: an element is kept when its 32 bits reach rate * 2^32.
template <class T>
void dropout(int64_t rows, int64_t cols, const Dropout& args, const T* x, T* y);

/// grad_x = mask * grad_y / (1 - rate)
template <class T>
void dropout_backward(int64_t rows, int64_t cols, const Dropout& args, const T* grad_y,
                      const Gradient<T>& grad_x);

}  // namespace sluice::kernels
