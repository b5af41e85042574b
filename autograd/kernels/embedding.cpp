#include "autograd/kernels/embedding.h"

#include "autograd/kernels/permute_tokens.h"
#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

/// Table rows of one block: few enough that frequent ids spread over threads, enough that an unused
/// stretch is cheap to skip.
constexpr int64_t kTableBlock = 64;

/// Stable counting sort: id v stands at order[start[v]] .. order[start[v + 1] - 1], increasing.
/// `start` is [V + 2], `order` is [N].
void sort_by_id(int64_t N, int64_t V, const int32_t* id, int64_t* start, int64_t* order) {
  // start[v + 2] counts id v; summed up, start[v + 1] is where v starts; filling moves it to where
  // v ends, which is where v + 1 starts.
  std::fill_n(start, V + 2, int64_t{0});
  for (int64_t n = 0; n < N; ++n) ++start[id[n] + 2];
  for (int64_t v = 2; v <= V + 1; ++v) start[v] += start[v - 1];
  for (int64_t n = 0; n < N; ++n) order[start[id[n] + 1]++] = n;
}

}  // namespace

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
