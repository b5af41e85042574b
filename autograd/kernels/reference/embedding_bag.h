#pragma once
// Several rows of a table per token, as plain loops.

#include "autograd/kernels/embedding_bag.h"

namespace sluice::kernels::reference {

template <class T>
void bag_sum(int64_t N, int64_t D, const BagSum<T>& args, const Gradient<T>& y) {
  zero_unless_accumulating(y, N * D);
  for (int64_t n = 0; n < N; ++n) {
    for (int64_t j = 0; j < args.k; ++j) {
      for (int64_t i = 0; i < D; ++i) {
        y.data[n * D + i] +=
            args.weight[n * args.k + j] * args.table[args.id[n * args.k + j] * D + i];
      }
    }
  }
}

template <class T>
void bag_dots(int64_t N, int64_t D, const BagDots<T>& args, const Gradient<T>& z) {
  zero_unless_accumulating(z, N * args.k);
  for (int64_t entry = 0; entry < N * args.k; ++entry) {
    T sum = 0;
    for (int64_t i = 0; i < D; ++i) {
      sum += args.x[entry / args.k * D + i] * args.table[args.id[entry] * D + i];
    }
    z.data[entry] += sum;
  }
}

template <class T>
void bag_table_gradient(int64_t N, int64_t D, const BagTableGradient<T>& args) {
  zero_unless_accumulating(args.grad_table, args.V * D);
  for (int64_t entry = 0; entry < N * args.k; ++entry) {
    for (int64_t i = 0; i < D; ++i) {
      args.grad_table.data[args.id[entry] * D + i] +=
          args.weight[entry] * args.x[entry / args.k * D + i];
    }
  }
}

}  // namespace sluice::kernels::reference
