#include "autograd/kernels/embedding.h"

#include "autograd/kernels/permute_tokens.h"
#include "autograd/kernels/rows.h"
#include "autograd/kernels/sorted_ids.h"

namespace sluice::kernels {
template <class T>
void embedding(int64_t N, int64_t D, const int32_t* id, std::type_identity_t<Stored<T>> weight,
               T* y) {
  gather_rows<T>(N, D, id, weight, y);
}

template <class T>
void embedding_backward(int64_t N, int64_t D, const EmbeddingBackward<T>& args) {
  ArenaScope scratch(thread_arena());
  int64_t* start = scratch.allocate<int64_t>(args.V + 2);
  int64_t* order = scratch.allocate<int64_t>(N);
  sort_by_id(N, args.V, args.id, start, order);
  parallel_for_ranges(args.V, kTableBlock, [&](int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      T* grad_weight = args.grad_weight.data + v * D;
      if (!args.grad_weight.accumulate) std::fill_n(grad_weight, D, T{0});
      for (int64_t place = start[v]; place < start[v + 1]; ++place) {
        const T* grad_y = args.grad_y + order[place] * D;
        for (int64_t i = 0; i < D; ++i) grad_weight[i] += grad_y[i];
      }
    }
  });
}

template void embedding(int64_t, int64_t, const int32_t*, Stored<float>, float*);
template void embedding(int64_t, int64_t, const int32_t*, Stored<double>, double*);
template void embedding_backward(int64_t, int64_t, const EmbeddingBackward<float>&);
template void embedding_backward(int64_t, int64_t, const EmbeddingBackward<double>&);

}  // namespace sluice::kernels
