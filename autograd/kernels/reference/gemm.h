#pragma once
// The matrix product as plain loops.

#include <utility>

#include "autograd/kernels/gemm.h"

namespace sluice::kernels::reference {

template <class T>
T element(const GemmOperand<T>& x, int64_t row, int64_t col) {
  if (x.transposed) std::swap(row, col);
  return x.data[(x.index == nullptr ? row : x.index[row]) * x.stride + col];
}

template <class T>
void gemm(GemmSize size, GemmOperand<T> a, GemmOperand<T> b, GemmResult<T> c) {
  for (int64_t i = 0; i < size.M; ++i) {
    for (int64_t j = 0; j < size.N; ++j) {
      T sum = 0;
      for (int64_t k = 0; k < size.K; ++k) sum += element(a, i, k) * element(b, k, j);
      T& result = c.data[i * c.stride + j];
      result = c.beta == T{0} ? c.alpha * sum : c.alpha * sum + c.beta * result;
    }
  }
}

}  // namespace sluice::kernels::reference
