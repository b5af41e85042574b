#include "autograd/kernels/permute_tokens.h"

#include "autograd/kernels/rows.h"
#include "autograd/kernels/vector_math.h"
#include "autograd/support/error.h"

namespace sluice::kernels {

void count_by_expert(const Assignments& assignments, int32_t* offsets) {
  const int64_t k = assignments.k;
  std::fill_n(offsets, assignments.E + 1, 0);
  for (int64_t slot = 0; slot < assignments.N * k; ++slot) {
    const int32_t expert = assignments.expert[slot];
    SLUICE_CHECK(ShapeError, expert >= -1 && expert < assignments.E,
                 "dispatch: token {} slot {} has expert {}, allowed -1 to {}", slot / k, slot % k,
                 expert, assignments.E - 1);
    if (expert >= 0) ++offsets[expert + 1];
  }
  for (int64_t e = 0; e < assignments.E; ++e) offsets[e + 1] += offsets[e];
}

void order_by_expert(const Assignments& assignments, const int32_t* offsets,
                     const ExpertOrder& order) {
  const int64_t k = assignments.k;
  ArenaScope scratch(thread_arena());
  int32_t* next_row = scratch.allocate<int32_t>(assignments.E);
  std::copy_n(offsets, assignments.E, next_row);
  for (int64_t slot = 0; slot < assignments.N * k; ++slot) {
    const int32_t expert = assignments.expert[slot];
    if (expert < 0) {
      order.row_of_slot[slot] = -1;
      continue;
    }
    const int32_t row = next_row[expert]++;
    order.token_of_row[row] = static_cast<int32_t>(slot / k);
    order.slot_of_row[row] = static_cast<int32_t>(slot);
    order.row_of_slot[slot] = row;
  }
}

template <class T>
void gather_rows(int64_t R, int64_t D, const int32_t* index, std::type_identity_t<Stored<T>> x,
                 T* y) {
  x.visit([=](const auto* elements) {
    parallel_rows(R, D, [=](int64_t row) {
      const auto* from = elements + index[row] * D;
      T* to = y + row * D;
      // By hand: rows are a few registers to a few kilobytes long, where a call of memmove costs more
      // than it saves.
      for_each_vector<T>(D, [=](int64_t i, int64_t count) {
        store_first(to + i, load_first(from + i, count), count);
      });
    });
  });
}

template <class T>
void combine_rows(int64_t N, int64_t D, const CombineRows<T>& args, const Gradient<T>& y) {
  parallel_rows(N, D * args.k, [&](int64_t n) {
    T* row_y = y.data + n * D;
    if (!y.accumulate) std::fill_n(row_y, D, T{0});
    for (int64_t slot = n * args.k; slot < (n + 1) * args.k; ++slot) {
      if (args.row_of_slot[slot] < 0) continue;
      const T* row = args.rows + args.row_of_slot[slot] * D;
      const T weight = args.weight == nullptr ? T{1} : args.weight[slot];
      for (int64_t i = 0; i < D; ++i) row_y[i] += weight * row[i];
    }
  });
}

template <class T>
void combine_rows_backward(int64_t N, int64_t D, const CombineRows<T>& args,
                           const CombineRowsBackward<T>& gradients) {
  parallel_rows(N, D * args.k, [&](int64_t n) {
    const T* grad_y = gradients.grad_y + n * D;
    for (int64_t slot = n * args.k; slot < (n + 1) * args.k; ++slot) {
      const int64_t row = args.row_of_slot[slot];
      if (gradients.grad_weight) {
        const T* rows = args.rows + row * D;
        const T dot = row < 0 ? T{0} : row_dot(D, rows, grad_y);
        put_gradient(gradients.grad_weight.from(slot), 1, [=](int64_t) { return dot; });
      }
      if (gradients.grad_rows && row >= 0) {
        const T weight = args.weight == nullptr ? T{1} : args.weight[slot];
        put_gradient(gradients.grad_rows.from(row * D), D,
                     [=](int64_t i) { return weight * grad_y[i]; });
      }
    }
  });
}

#define SLUICE_INSTANTIATE(T)                                                              \
  template void gather_rows(int64_t, int64_t, const int32_t*, Stored<T>, T*);              \
  template void combine_rows(int64_t, int64_t, const CombineRows<T>&, const Gradient<T>&); \
  template void combine_rows_backward(int64_t, int64_t, const CombineRows<T>&,             \
                                      const CombineRowsBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
