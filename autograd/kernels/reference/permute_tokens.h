#pragma once
// Expert order by its definition: for each expert, its assignments one after the other.

#include "autograd/kernels/permute_tokens.h"

namespace sluice::kernels::reference {

/// Offsets [E + 1] and order in one.
inline void order_by_expert(const Assignments& assignments, int32_t* offsets,
                            const ExpertOrder& order) {
  int32_t row = 0;
  for (int64_t e = 0; e < assignments.E; ++e) {
    offsets[e] = row;
    for (int64_t n = 0; n < assignments.N; ++n) {
      for (int64_t s = 0; s < assignments.k; ++s) {
        const int64_t slot = n * assignments.k + s;
        if (assignments.expert[slot] == -1) order.row_of_slot[slot] = -1;
        if (assignments.expert[slot] != e) continue;
        order.token_of_row[row] = static_cast<int32_t>(n);
        order.slot_of_row[row] = static_cast<int32_t>(slot);
        order.row_of_slot[slot] = row++;
      }
    }
  }
  offsets[assignments.E] = row;
}

template <class T>
void gather_rows(int64_t R, int64_t D, const int32_t* index, const T* x, T* y) {
  for (int64_t row = 0; row < R; ++row) {
    for (int64_t i = 0; i < D; ++i) y[row * D + i] = x[index[row] * D + i];
  }
}

template <class T>
void combine_rows(int64_t N, int64_t D, const CombineRows<T>& args, const Gradient<T>& y) {
  zero_unless_accumulating(y, N * D);
  for (int64_t slot = 0; slot < N * args.k; ++slot) {
    if (args.row_of_slot[slot] < 0) continue;
    const T weight = args.weight == nullptr ? T{1} : args.weight[slot];
    for (int64_t i = 0; i < D; ++i) {
      y.data[slot / args.k * D + i] += weight * args.rows[args.row_of_slot[slot] * D + i];
    }
  }
}

/// `R` rows stand in expert order.
template <class T>
void combine_rows_backward(int64_t N, int64_t D, int64_t R, const CombineRows<T>& args,
                           const CombineRowsBackward<T>& gradients) {
  zero_unless_accumulating(gradients.grad_rows, R * D);
  zero_unless_accumulating(gradients.grad_weight, N * args.k);
  for (int64_t slot = 0; slot < N * args.k; ++slot) {
    const int64_t row = args.row_of_slot[slot];
    if (row < 0) continue;
    const T* grad_y = gradients.grad_y + slot / args.k * D;
    const T weight = args.weight == nullptr ? T{1} : args.weight[slot];
    for (int64_t i = 0; i < D; ++i) {
      if (gradients.grad_rows) gradients.grad_rows.data[row * D + i] += weight * grad_y[i];
      if (gradients.grad_weight) {
        gradients.grad_weight.data[slot] += args.rows[row * D + i] * grad_y[i];
      }
    }
  }
}

}  // namespace sluice::kernels::reference
