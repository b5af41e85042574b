#include "autograd/kernels/softmax.h"

#include <cmath>

#include "autograd/kernels/rows.h"
#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {
namespace {

template <class T>
T row_log_sum_exp(int64_t cols, const T* x) {
  const T m = max_of_array(cols, x);
  return m + std::log(exp_shifted<T>(cols, x, m, nullptr));
}

}  // namespace

template <class T>
void softmax(int64_t rows, int64_t cols, const T* x, T* y) {
  parallel_rows(rows, cols, [=](int64_t row) {
    const T* row_x = x + row * cols;
    T* row_y = y + row * cols;
    const T total = exp_shifted(cols, row_x, max_of_array(cols, row_x), row_y);
    for (int64_t col = 0; col < cols; ++col) row_y[col] /= total;
  });
}

template <class T>
void softmax_backward(int64_t rows, int64_t cols, const T* y, const T* grad_y,
                      const Gradient<T>& grad_x) {
  parallel_rows(rows, cols, [&](int64_t row) {
    const T* row_y = y + row * cols;
    const T* g = grad_y + row * cols;
    const T dot = row_dot(cols, row_y, g);
    put_gradient(grad_x.from(row * cols), cols,
                 [=](int64_t col) { return row_y[col] * (g[col] - dot); });
  });
}

template <class T>
void log_softmax(int64_t rows, int64_t cols, const T* x, T* y) {
  parallel_rows(rows, cols, [=](int64_t row) {
    const T* row_x = x + row * cols;
    const T lse = row_log_sum_exp(cols, row_x);
    for (int64_t col = 0; col < cols; ++col) y[row * cols + col] = row_x[col] - lse;
  });
}

template <class T>
void log_softmax_backward(int64_t rows, int64_t cols, const T* y, const T* grad_y,
                          const Gradient<T>& grad_x) {
  parallel_rows(rows, cols, [&](int64_t row) {
    const T* row_y = y + row * cols;
    const T* g = grad_y + row * cols;
    const Vec<T> total = broadcast(row_sum(cols, g));
    for_each_vector<T>(cols, [&](int64_t col, int64_t count) {
      const Vec<T> p = exp(load_first(row_y + col, count));
      put_gradient(grad_x, row * cols + col, count, load_first(g + col, count) - p * total);
    });
  });
}

template <class T>
void log_sum_exp(int64_t rows, int64_t cols, const T* x, T* lse) {
  parallel_rows(rows, cols, [=](int64_t row) { lse[row] = row_log_sum_exp(cols, x + row * cols); });
}

template <class T>
void log_sum_exp_backward(int64_t rows, int64_t cols, const LogSumExpBackward<T>& args) {
  parallel_rows(rows, cols, [&](int64_t row) {
    const T* x = args.x + row * cols;
    const Vec<T> lse = broadcast(args.lse[row]);
    const Vec<T> grad_lse = broadcast(args.grad_lse[row]);
    for_each_vector<T>(cols, [&](int64_t col, int64_t count) {
      const Vec<T> p = exp(load_first(x + col, count) - lse);
      put_gradient(args.grad_x, row * cols + col, count, p * grad_lse);
    });
  });
}

#define SLUICE_INSTANTIATE(T)                                                                   \
  template void softmax(int64_t, int64_t, const T*, T*);                                        \
  template void softmax_backward(int64_t, int64_t, const T*, const T*, const Gradient<T>&);     \
  template void log_softmax(int64_t, int64_t, const T*, T*);                                    \
  template void log_softmax_backward(int64_t, int64_t, const T*, const T*, const Gradient<T>&); \
  template void log_sum_exp(int64_t, int64_t, const T*, T*);                                    \
  template void log_sum_exp_backward(int64_t, int64_t, const LogSumExpBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
