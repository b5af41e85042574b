#include "autograd/kernels/swiglu.h"

#include "autograd/kernels/rows.h"
#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {

template <class T>
void swiglu(int64_t rows, int64_t F, const SwiGlu<T>& args) {
  parallel_rows(rows, F, [&](int64_t row) {
    const T* gate = args.gate + row * args.in_stride;
    const T* up = args.up + row * args.in_stride;
    T* h = args.h + row * F;
    for_each_vector<T>(F, [=](int64_t i, int64_t count) {
      const Vec<T> a = load_first(gate + i, count);
      store_first(h + i, a * sigmoid(a) * load_first(up + i, count), count);
    });
  });
}

template <class T>
void swiglu_backward(int64_t rows, int64_t F, const SwiGluBackward<T>& args) {
  const Vec<T> one = broadcast(T{1});
  parallel_rows(rows, F, [&](int64_t row) {
    const int64_t start = row * args.in_stride;
    const T* grad_h = args.grad_h + row * F;
    for_each_vector<T>(F, [&](int64_t i, int64_t count) {
      const Vec<T> a = load_first(args.gate + start + i, count);
      const Vec<T> g = load_first(grad_h + i, count);
      const Vec<T> s = sigmoid(a);
      if (args.grad_gate) {
        const Vec<T> slope = s * (one + a * (one - s));
        const Vec<T> up = load_first(args.up + start + i, count);
        put_gradient(args.grad_gate, start + i, count, g * up * slope);
      }
      if (args.grad_up) put_gradient(args.grad_up, start + i, count, g * (a * s));
    });
  });
}

template void swiglu(int64_t, int64_t, const SwiGlu<float>&);
template void swiglu(int64_t, int64_t, const SwiGlu<double>&);
template void swiglu_backward(int64_t, int64_t, const SwiGluBackward<float>&);
template void swiglu_backward(int64_t, int64_t, const SwiGluBackward<double>&);

}  // namespace sluice::kernels
