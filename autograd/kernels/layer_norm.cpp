#include "autograd/kernels/layer_norm.h"

#include <cmath>

#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

template <class T>
void add_grad_x(int64_t D, const LayerNormBackward<T>& args, int64_t row) {
  const T* x = args.x + row * D;
  const T* grad_y = args.grad_y + row * D;
  const T* weight = args.weight;
  const T m = args.mean[row];
  const T r = args.reciprocal_deviation[row];
  const T width = static_cast<T>(D);
  const T mean_g = row_dot(D, grad_y, weight) / width;
  const T dot = vector_sum<T>(D, [=](int64_t i, int64_t count) {
    return load_first(grad_y + i, count) * load_first(weight + i, count) *
           (load_first(x + i, count) - broadcast(m));
  });
  const T pull = dot * r * r / width;
  put_gradient(args.grad_x.from(row * D), D,
               [&](int64_t i) { return r * (grad_y[i] * weight[i] - mean_g - (x[i] - m) * pull); });
}

}  // namespace

template <class T>
void layer_norm(int64_t rows, int64_t D, const LayerNorm<T>& args) {
  const T* weight = args.weight;
  const T* bias = args.bias;
  const T width = static_cast<T>(D);
  parallel_rows(rows, D, [&](int64_t row) {
    const T* x = args.x + row * D;
    T* y = args.y + row * D;
    // Two passes over the row, which is in L1: mean(x^2) - m^2 would cancel.
    const T m = row_sum(D, x) / width;
    const T variance = vector_sum<T>(D,
                                     [=](int64_t i, int64_t count) {
                                       const Vec<T> centred =
                                           load_first(x + i, count) - broadcast(m);
                                       return centred * centred;
                                     }) /
                       width;
    const T r = T{1} / std::sqrt(variance + static_cast<T>(args.epsilon));
    for (int64_t i = 0; i < D; ++i) y[i] = weight[i] * ((x[i] - m) * r) + bias[i];
    args.mean[row] = m;
    args.reciprocal_deviation[row] = r;
  });
}

template <class T>
void layer_norm_backward(int64_t rows, int64_t D, const LayerNormBackward<T>& args) {
  ArenaScope scratch(thread_arena());
  const ColumnSums<T> weight_sums(scratch, rows, D, args.grad_weight);
  const ColumnSums<T> bias_sums(scratch, rows, D, args.grad_bias);
  weight_sums.for_each_block([&](int64_t begin, int64_t end, T* weight_partial) {
    T* bias_partial = bias_sums.start_block(begin);
    for (int64_t row = begin; row < end; ++row) {
      if (args.grad_x) add_grad_x(D, args, row);
      const T* x = args.x + row * D;
      const T* grad_y = args.grad_y + row * D;
      if (weight_partial != nullptr) {
        const T m = args.mean[row];
        const T r = args.reciprocal_deviation[row];
        for (int64_t i = 0; i < D; ++i) weight_partial[i] += grad_y[i] * ((x[i] - m) * r);
      }
      if (bias_partial != nullptr) {
        for (int64_t i = 0; i < D; ++i) bias_partial[i] += grad_y[i];
      }
    }
  });
  weight_sums.finish();
  bias_sums.finish();
}

template void layer_norm(int64_t, int64_t, const LayerNorm<float>&);
template void layer_norm(int64_t, int64_t, const LayerNorm<double>&);
template void layer_norm_backward(int64_t, int64_t, const LayerNormBackward<float>&);
template void layer_norm_backward(int64_t, int64_t, const LayerNormBackward<double>&);

}  // namespace sluice::kernels
