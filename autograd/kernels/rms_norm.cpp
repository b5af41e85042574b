#include "autograd/kernels/rms_norm.h"

#include <cmath>

#include "autograd/kernels/rows.h"

namespace sluice::kernels {

template <class T>
void rms_norm(int64_t rows, int64_t D, const RmsNorm<T>& args) {
  const T* weight = args.weight;
  parallel_rows(rows, D, [&](int64_t row) {
    const T* x = args.x + row * D;
    T* y = args.y + row * D;
    const T mean_square = row_dot(D, x, x) / static_cast<T>(D);
    const T r = T{1} / std::sqrt(mean_square + static_cast<T>(args.epsilon));
    for (int64_t i = 0; i < D; ++i) y[i] = weight[i] * (x[i] * r);
    args.reciprocal_rms[row] = r;
  });
}

template <class T>
void rms_norm_backward(int64_t rows, int64_t D, const RmsNormBackward<T>& args) {
  const T* weight = args.weight;
  ArenaScope scratch(thread_arena());
  const ColumnSums<T> weight_sums(scratch, rows, D, args.grad_weight);
  weight_sums.for_each_block([&](int64_t begin, int64_t end, T* partial) {
    for (int64_t row = begin; row < end; ++row) {
      const T* x = args.x + row * D;
      const T* grad_y = args.grad_y + row * D;
      const T r = args.reciprocal_rms[row];
      if (args.grad_x) {
        const T dot = vector_sum<T>(D, [=](int64_t i, int64_t count) {
          return load_first(grad_y + i, count) * load_first(weight + i, count) *
                 load_first(x + i, count);
        });
        // x r mean(g x r), with the factors that are the same for the whole row taken together.
        const T pull = dot * r * r / static_cast<T>(D);
        put_gradient(args.grad_x.from(row * D), D,
                     [&](int64_t i) { return r * (grad_y[i] * weight[i] - x[i] * pull); });
      }
      if (partial != nullptr) {
        for (int64_t i = 0; i < D; ++i) partial[i] += grad_y[i] * (x[i] * r);
      }
    }
  });
  weight_sums.finish();
}

template void rms_norm(int64_t, int64_t, const RmsNorm<float>&);
template void rms_norm(int64_t, int64_t, const RmsNorm<double>&);
template void rms_norm_backward(int64_t, int64_t, const RmsNormBackward<float>&);
template void rms_norm_backward(int64_t, int64_t, const RmsNormBackward<double>&);

}  // namespace sluice::kernels
