#include "autograd/kernels/embedding_bag.h"

#include "autograd/kernels/permute_tokens.h"
#include "autograd/kernels/rows.h"
#include "autograd/kernels/sorted_ids.h"

namespace sluice::kernels {

template <class T>
void bag_sum(int64_t N, int64_t D, const BagSum<T>& args, const Gradient<T>& y) {
  combine_rows<T>(N, D, {args.k, args.id, args.weight, args.table}, y);
}

template <class T>
void bag_dots(int64_t N, int64_t D, const BagDots<T>& args, const Gradient<T>& z) {
  parallel_rows(N, D * args.k, [&](int64_t n) {
    const T* x = args.x + n * D;
    const int32_t* id = args.id + n * args.k;
    put_gradient(z.from(n * args.k), args.k,
                 [&](int64_t j) { return row_dot(D, x, args.table + id[j] * D); });
  });
}

template <class T>
void bag_table_gradient(int64_t N, int64_t D, const BagTableGradient<T>& args) {
  ArenaScope scratch(thread_arena());
  int64_t* start = scratch.allocate<int64_t>(args.V + 2);
  int64_t* order = scratch.allocate<int64_t>(N * args.k);
  sort_by_id(N * args.k, args.V, args.id, start, order);
  parallel_for_ranges(args.V, kTableBlock, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      T* grad = args.grad_table.data + v * D;
      if (!args.grad_table.accumulate) std::fill_n(grad, D, T{0});
      for (int64_t place = start[v]; place < start[v + 1]; ++place) {
        const int64_t entry = order[place];
        const T weight = args.weight[entry];
        const T* x = args.x + entry / args.k * D;
        for (int64_t i = 0; i < D; ++i) grad[i] += weight * x[i];
      }
    }
  });
}

#define SLUICE_INSTANTIATE(T)                                                      \
  template void bag_sum(int64_t, int64_t, const BagSum<T>&, const Gradient<T>&);   \
  template void bag_dots(int64_t, int64_t, const BagDots<T>&, const Gradient<T>&); \
  template void bag_table_gradient(int64_t, int64_t, const BagTableGradient<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
