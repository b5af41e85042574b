#include "autograd/kernels/gated_rms_norm.h"

#include <cmath>

#include "autograd/kernels/rows.h"
#include "autograd/kernels/silu.h"

namespace sluice::kernels {
namespace {

/// body(begin, index of its r) for each group of a row.
template <class Body>
inline void for_each_group(const GatedRmsNormShape& shape, int64_t row, Body&& body) {
  const int64_t groups = shape.D / shape.group_size;
  for (int64_t g = 0; g < groups; ++g) body(g * shape.group_size, row * groups + g);
}

template <class T>
void forward_row(const GatedRmsNormShape& shape, int64_t row, const GatedRmsNorm<T>& args,
                 T* gated) {
  const int64_t S = shape.group_size;
  const T* x = args.x + row * shape.D;
  const T* z = args.z + row * shape.D;
  T* y = args.y + row * shape.D;
  for_each_vector<T>(shape.D, [&](int64_t i, int64_t count) {
    store_first(gated + i, load_first(x + i, count) * silu(load_first(z + i, count)), count);
  });
  for_each_group(shape, row, [&](int64_t begin, int64_t index) {
    const T* normed = (shape.norm_before_gate ? x : gated) + begin;
    const T mean_square = row_dot(S, normed, normed) / static_cast<T>(S);
    const T r = T{1} / std::sqrt(mean_square + static_cast<T>(shape.epsilon));
    for (int64_t i = begin; i < begin + S; ++i) y[i] = args.weight[i] * (gated[i] * r);
    args.reciprocal_rms[index] = r;
  });
}

/// silu(z), silu'(z), n and g of one row, and with them its gradients. `scratch` holds two rows.
template <class T>
void backward_row(const GatedRmsNormShape& shape, int64_t row, const GatedRmsNormBackward<T>& args,
                  T* scratch, T* weight_sums) {
  const int64_t D = shape.D;
  const int64_t S = shape.group_size;
  const bool norm_first = shape.norm_before_gate;
  const T* x = args.x + row * D;
  const T* z = args.z + row * D;
  const T* grad_y = args.grad_y + row * D;
  T* gate = scratch;
  T* slope = scratch + D;
  for_each_vector<T>(D, [&](int64_t i, int64_t count) {
    const Vec<T> a = load_first(z + i, count);
    const Vec<T> s = sigmoid(a);
    store_first(gate + i, a * s, count);
    store_first(slope + i, silu_slope(a, s), count);
  });
  for_each_group(shape, row, [&](int64_t begin, int64_t index) {
    const T r = args.reciprocal_rms[index];
    // The same in both orders: g n = grad_y weight x silu(z) r.
    const T dot = vector_sum<T>(S, [&](int64_t i, int64_t count) {
      return load_first(grad_y + begin + i, count) * load_first(args.weight + begin + i, count) *
             load_first(x + begin + i, count) * load_first(gate + begin + i, count);
    });
    const Vec<T> reciprocal = broadcast(r);
    const Vec<T> pull = broadcast(dot * r * r / static_cast<T>(S));
    for_each_vector<T>(S, [&](int64_t offset, int64_t count) {
      const int64_t i = begin + offset;
      const Vec<T> value = load_first(x + i, count);
      const Vec<T> opened = load_first(gate + i, count);
      const Vec<T> grad = load_first(grad_y + i, count);
      const Vec<T> weighted = grad * load_first(args.weight + i, count);
      const Vec<T> t = norm_first ? value : value * opened;
      const Vec<T> grad_t = reciprocal * ((norm_first ? weighted * opened : weighted) - t * pull);
      if (args.grad_x) {
        put_gradient(args.grad_x.from(row * D), i, count, norm_first ? grad_t : grad_t * opened);
      }
      if (args.grad_z) {
        const Vec<T> through = norm_first ? weighted * (value * reciprocal) : grad_t * value;
        put_gradient(args.grad_z.from(row * D), i, count, through * load_first(slope + i, count));
      }
      if (weight_sums != nullptr) {
        const Vec<T> sum = load_first(weight_sums + i, count);
        store_first(weight_sums + i, sum + grad * (value * opened * reciprocal), count);
      }
    });
  });
}

}  // namespace

template <class T>
void gated_rms_norm(int64_t rows, const GatedRmsNormShape& shape, const GatedRmsNorm<T>& args) {
  parallel_for_ranges(rows, rows_per_block(shape.D), [&](int64_t begin, int64_t end) {
    ArenaScope own(thread_arena());
    T* gated = own.allocate<T>(shape.D);
    for (int64_t row = begin; row < end; ++row) forward_row(shape, row, args, gated);
  });
}

template <class T>
void gated_rms_norm_backward(int64_t rows, const GatedRmsNormShape& shape,
                             const GatedRmsNormBackward<T>& args) {
  ArenaScope scratch(thread_arena());
  const ColumnSums<T> weight_sums(scratch, rows, shape.D, args.grad_weight);
  weight_sums.for_each_block([&](int64_t begin, int64_t end, T* partial) {
    ArenaScope own(thread_arena());
    T* two_rows = own.allocate<T>(2 * shape.D);
    for (int64_t row = begin; row < end; ++row) {
      backward_row(shape, row, args, two_rows, partial);
    }
  });
  weight_sums.finish();
}

#define SLUICE_INSTANTIATE(T)                                                                 \
  template void gated_rms_norm<T>(int64_t, const GatedRmsNormShape&, const GatedRmsNorm<T>&); \
  template void gated_rms_norm_backward<T>(int64_t, const GatedRmsNormShape&,                 \
                                           const GatedRmsNormBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
