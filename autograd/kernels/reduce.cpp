#include "autograd/kernels/reduce.h"

#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

/// Independent sums of one block: enough to hide the latency of an addition in f64.
constexpr int64_t kLanes = 32;

/// sum of term(x[i]) over one block in f64; element i goes to lane i mod kLanes, the lanes are
/// added as a tree.
template <class T, class Term>
double sum_in_double(int64_t n, const T* x, Term&& term) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int64_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] += term(static_cast<double>(x[i + lane]));
    }
  }
  for (int64_t lane = 0; i + lane < n; ++lane)
    lanes[lane] += term(static_cast<double>(x[i + lane]));
  for (int64_t width = kLanes / 2; width > 0; width /= 2) {
    for (int64_t lane = 0; lane < width; ++lane) lanes[lane] += lanes[lane + width];
  }
  return lanes[0];
}

}  // namespace

template <class T>
double sum(int64_t n, const T* x) {
  return parallel_sum<double>(n, kElementBlock, [x](int64_t begin, int64_t end) {
    return sum_in_double(end - begin, x + begin, [](double value) { return value; });
  });
}

template <class T>
double sum_of_squares(int64_t n, const T* x) {
  return parallel_sum<double>(n, kElementBlock, [x](int64_t begin, int64_t end) {
    return sum_in_double(end - begin, x + begin, [](double value) { return value * value; });
  });
}

template <class T>
void sum_columns(int64_t rows, int64_t cols, const T* x, T* y) {
  parallel_rows(rows, cols, [&](int64_t row) { y[row] = row_sum(cols, x + row * cols); });
}

template <class T>
void sum_rows(int64_t rows, int64_t cols, const T* x, const Gradient<T>& y) {
  ArenaScope scratch(thread_arena());
  const ColumnSums<T> sums(scratch, rows, cols, y);
  sums.for_each_block([&](int64_t begin, int64_t end, T* partial) {
    for (int64_t row = begin; row < end; ++row) {
      const T* row_x = x + row * cols;
      for (int64_t col = 0; col < cols; ++col) partial[col] += row_x[col];
    }
  });
  sums.finish();
}

template <class T>
void normalise_rows(int64_t rows, int64_t cols, const NormaliseRows<T>& args) {
  parallel_rows(rows, cols, [&](int64_t row) {
    const T* x = args.x + row * cols;
    T* y = args.y + row * cols;
    const T total = row_sum(cols, x) + static_cast<T>(args.epsilon);
    for (int64_t col = 0; col < cols; ++col) y[col] = x[col] / total;
    args.total[row] = total;
  });
}

template <class T>
void normalise_rows_backward(int64_t rows, int64_t cols, const NormaliseRowsBackward<T>& args) {
  parallel_rows(rows, cols, [&](int64_t row) {
    const T* y = args.y + row * cols;
    const T* grad_y = args.grad_y + row * cols;
    const T total = args.total[row];
    const T dot = row_dot(cols, grad_y, y);
    put_gradient(args.grad_x.from(row * cols), cols,
                 [&](int64_t col) { return (grad_y[col] - dot) / total; });
  });
}

#define SLUICE_INSTANTIATE(T)                                              \
  template double sum(int64_t, const T*);                                  \
  template double sum_of_squares(int64_t, const T*);                       \
  template void sum_columns(int64_t, int64_t, const T*, T*);               \
  template void sum_rows(int64_t, int64_t, const T*, const Gradient<T>&);  \
  template void normalise_rows(int64_t, int64_t, const NormaliseRows<T>&); \
  template void normalise_rows_backward(int64_t, int64_t, const NormaliseRowsBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
