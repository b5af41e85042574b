#include "autograd/kernels/dropout.h"

#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

constexpr int64_t kPerDraw = 4;  // columns that one 128-bit random number serves

template <class T>
void apply_mask(int64_t rows, int64_t cols, const Dropout& args, const T* x, const Gradient<T>& y) {
  const auto threshold = static_cast<uint64_t>(args.rate * 0x1.0p32);
  const T kept_scale = static_cast<T>(1.0 / (1.0 - args.rate));
  const auto draws = static_cast<uint64_t>(ceil_div(cols, kPerDraw));
  parallel_rows(rows, cols, [&](int64_t row) {
    const auto sample = static_cast<uint64_t>(args.sample[row]);
    const uint64_t first = static_cast<uint64_t>(args.position[row]) * draws;
    for (int64_t col = 0; col < cols; col += kPerDraw) {
      const auto bits =
          random_bits(args.key, sample, first + static_cast<uint64_t>(col / kPerDraw));
      const T* from = x + row * cols + col;
      put_gradient(y.from(row * cols + col), std::min(kPerDraw, cols - col), [&](int64_t i) {
        return bits[static_cast<size_t>(i)] >= threshold ? from[i] * kept_scale : T{0};
      });
    }
  });
}

}  // namespace

template <class T>
void dropout(int64_t rows, int64_t cols, const Dropout& args, const T* x, T* y) {
  apply_mask(rows, cols, args, x, Gradient<T>{.data = y, .accumulate = false});
}

template <class T>
void dropout_backward(int64_t rows, int64_t cols, const Dropout& args, const T* grad_y,
                      const Gradient<T>& grad_x) {
  apply_mask(rows, cols, args, grad_y, grad_x);
}

#define SLUICE_INSTANTIATE(T)                                            \
  template void dropout(int64_t, int64_t, const Dropout&, const T*, T*); \
  template void dropout_backward(int64_t, int64_t, const Dropout&, const T*, const Gradient<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
