#pragma once
// Table look-up and its gradient as plain loops.

#include "autograd/kernels/embedding.h"

namespace sluice::kernels::reference {

template <class T>
void embedding(int64_t N, int64_t D, const int32_t* id, const T* weight, T* y) {
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t i = 0; i < D; ++i) y[n * D + i] = weight[id[n] * D + i];
  }
}

template <class T>
void embedding_backward(int64_t N, int64_t D, const EmbeddingBackward<T>& args) {
  zero_unless_accumulating(args.grad_weight, args.V * D);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t i = 0; i < D; ++i)
      args.grad_weight.data[args.id[n] * D + i] += args.grad_y[n * D + i];
  }
}

}  // namespace sluice::kernels::reference
