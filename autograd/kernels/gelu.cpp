#include "autograd/kernels/gelu.h"

#include "autograd/kernels/rows.h"
#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {
namespace {

// 1/2 (1 + tanh(u)) is sigmoid(2u), so y = x sigmoid(2u) without the cancellation of 1 + tanh at
// large -u.
constexpr double kTwiceRootTwoOverPi = 1.5957691216057308;
constexpr double kCubic = 0.044715;

/// sigmoid(2u)
template <class T>
Vec<T> gate(Vec<T> x) {
  const Vec<T> cubic = broadcast(static_cast<T>(kCubic * kTwiceRootTwoOverPi));
  const Vec<T> linear = broadcast(static_cast<T>(kTwiceRootTwoOverPi));
  return sigmoid(x * fma(x * x, cubic, linear));
}

}  // namespace

template <class T>
void gelu_tanh(int64_t n, const T* x, T* y) {
  parallel_for_ranges(n, kElementBlock, [=](int64_t begin, int64_t end) {
    for_each_vector<T>(end - begin, [=](int64_t i, int64_t count) {
      const Vec<T> a = load_first(x + begin + i, count);
      store_first(y + begin + i, a * gate(a), count);
    });
  });
}

template <class T>
void gelu_tanh_backward(int64_t n, const T* x, const T* grad_y, const Gradient<T>& grad_x) {
  // y' = s + x s (1 - s) (2u)',   (2u)' = 2 sqrt(2/pi) (1 + 3 * 0.044715 x^2)
  const Vec<T> one = broadcast(T{1});
  const Vec<T> square = broadcast(static_cast<T>(3.0 * kCubic * kTwiceRootTwoOverPi));
  const Vec<T> constant = broadcast(static_cast<T>(kTwiceRootTwoOverPi));
  parallel_for_ranges(n, kElementBlock, [&](int64_t begin, int64_t end) {
    for_each_vector<T>(end - begin, [&](int64_t offset, int64_t count) {
      const int64_t i = begin + offset;
      const Vec<T> a = load_first(x + i, count);
      const Vec<T> s = gate(a);
      const Vec<T> slope = s * (one + a * (one - s) * fma(a * a, square, constant));
      put_gradient(grad_x, i, count, load_first(grad_y + i, count) * slope);
    });
  });
}

template void gelu_tanh(int64_t, const float*, float*);
template void gelu_tanh(int64_t, const double*, double*);
template void gelu_tanh_backward(int64_t, const float*, const float*, const Gradient<float>&);
template void gelu_tanh_backward(int64_t, const double*, const double*, const Gradient<double>&);

}  // namespace sluice::kernels
