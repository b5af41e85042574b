#include "autograd/kernels/elementwise.h"

#include <cmath>
#include <numbers>

#include "autograd/kernels/rows.h"
#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {
namespace {

/// y[i] = value(i), in parallel.
template <class T, class Value>
void fill(int64_t n, T* y, Value&& value) {
  parallel_for_ranges(n, kElementBlock, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) y[i] = value(i);
  });
}

/// gradient[i] = value(i), in parallel.
template <class T, class Value>
void fill_gradient(int64_t n, const Gradient<T>& gradient, Value&& value) {
  parallel_for_ranges(n, kElementBlock, [&](int64_t begin, int64_t end) {
    put_gradient(gradient.from(begin), end - begin, [&](int64_t i) { return value(begin + i); });
  });
}

/// y = function(x) a register at a time, in parallel.
template <class T, class Function>
void map_vectors(int64_t n, const T* x, T* y, Function&& function) {
  parallel_for_ranges(n, kElementBlock, [&](int64_t begin, int64_t end) {
    for_each_vector<T>(end - begin, [&](int64_t i, int64_t count) {
      store_first(y + begin + i, function(load_first(x + begin + i, count)), count);
    });
  });
}

template <class T>
T softplus(T x) {
  return std::max(x, T{0}) + std::log1p(std::exp(-std::abs(x)));
}

/// 1 / (1 + e^-x) for the functions that are not worth a register.
template <class T>
T logistic(T x) {
  const T e = std::exp(-std::abs(x));
  return (x < 0 ? e : T{1}) / (T{1} + e);
}

template <class T>
void silu_backward(int64_t n, const T* x, const T* grad_y, const Gradient<T>& grad_x) {
  parallel_for_ranges(n, kElementBlock, [&](int64_t begin, int64_t end) {
    for_each_vector<T>(end - begin, [&](int64_t offset, int64_t count) {
      const int64_t i = begin + offset;
      const Vec<T> one = broadcast(T{1});
      const Vec<T> a = load_first(x + i, count);
      const Vec<T> s = sigmoid(a);
      const Vec<T> slope = s * (one + a * (one - s));
      put_gradient(grad_x, i, count, load_first(grad_y + i, count) * slope);
    });
  });
}

}  // namespace

template <class T>
void add(int64_t n, const T* a, const T* b, T* y) {
  fill(n, y, [=](int64_t i) { return a[i] + b[i]; });
}

template <class T>
void sub(int64_t n, const T* a, const T* b, T* y) {
  fill(n, y, [=](int64_t i) { return a[i] - b[i]; });
}

template <class T>
void mul(int64_t n, const T* a, const T* b, T* y) {
  fill(n, y, [=](int64_t i) { return a[i] * b[i]; });
}

template <class T>
void scale(int64_t n, T factor, const T* x, T* y) {
  fill(n, y, [=](int64_t i) { return factor * x[i]; });
}

template <class T>
void add_constant(int64_t n, const T* x, T constant, T* y) {
  fill(n, y, [=](int64_t i) { return x[i] + constant; });
}

template <class T>
void add_scaled(int64_t n, const T* a, T factor, const T* b, T* y) {
  fill(n, y, [=](int64_t i) { return a[i] + factor * b[i]; });
}

template <class T>
void put_scaled(int64_t n, T factor, const T* x, const Gradient<T>& gradient) {
  fill_gradient(n, gradient, [=](int64_t i) { return factor * x[i]; });
}

template <class T>
void put_product(int64_t n, const T* a, const T* b, const Gradient<T>& gradient) {
  fill_gradient(n, gradient, [=](int64_t i) { return a[i] * b[i]; });
}

template <class T>
void put_constant(int64_t n, T value, const Gradient<T>& gradient) {
  fill_gradient(n, gradient, [=](int64_t) { return value; });
}

template <class T>
void unary(UnaryFunction f, int64_t n, const T* x, T* y) {
  switch (f) {
    case UnaryFunction::exp:
      return map_vectors(n, x, y, [](Vec<T> a) { return exp(a); });
    case UnaryFunction::sigmoid:
      return map_vectors(n, x, y, [](Vec<T> a) { return sigmoid(a); });
    case UnaryFunction::silu:
      return map_vectors(n, x, y, [](Vec<T> a) { return a * sigmoid(a); });
    case UnaryFunction::log:
      return fill(n, y, [=](int64_t i) { return std::log(x[i]); });
    case UnaryFunction::sqrt:
      return fill(n, y, [=](int64_t i) { return std::sqrt(x[i]); });
    case UnaryFunction::square:
      return fill(n, y, [=](int64_t i) { return x[i] * x[i]; });
    case UnaryFunction::tanh:
      return fill(n, y, [=](int64_t i) { return std::tanh(x[i]); });
    case UnaryFunction::erf:
      return fill(n, y, [=](int64_t i) { return std::erf(x[i]); });
    case UnaryFunction::softplus:
      return fill(n, y, [=](int64_t i) { return softplus(x[i]); });
    case UnaryFunction::relu:
      return fill(n, y, [=](int64_t i) { return std::max(x[i], T{0}); });
    case UnaryFunction::relu_squared:
      return fill(n, y, [=](int64_t i) {
        const T positive = std::max(x[i], T{0});
        return positive * positive;
      });
    case UnaryFunction::elu_plus_one:
      return map_vectors(n, x, y, [](Vec<T> a) {
        const Vec<T> zero = zeros<T>();
        return select_less(zero, a, a + broadcast(T{1}), exp(min(a, zero)));
      });
  }
}

template <class T>
void unary_backward(UnaryFunction f, int64_t n, const T* saved, const T* grad_y,
                    const Gradient<T>& grad_x) {
  const auto put = [&](auto slope) {
    fill_gradient(n, grad_x, [=](int64_t i) { return grad_y[i] * slope(saved[i]); });
  };
  switch (f) {
    case UnaryFunction::exp:
      return put([](T y) { return y; });
    case UnaryFunction::sigmoid:
      return put([](T y) { return y * (T{1} - y); });
    case UnaryFunction::silu:
      return silu_backward(n, saved, grad_y, grad_x);
    case UnaryFunction::log:
      return put([](T x) { return T{1} / x; });
    case UnaryFunction::sqrt:
      return put([](T y) { return T{0.5} / y; });
    case UnaryFunction::square:
      return put([](T x) { return T{2} * x; });
    case UnaryFunction::tanh:
      return put([](T y) { return T{1} - y * y; });
    case UnaryFunction::erf:
      return put([](T x) { return T{2} * std::numbers::inv_sqrtpi_v<T> * std::exp(-x * x); });
    case UnaryFunction::softplus:
      return put([](T x) { return logistic(x); });
    case UnaryFunction::relu:
      return put([](T y) { return y > T{0} ? T{1} : T{0}; });
    case UnaryFunction::relu_squared:
      return put([](T x) { return T{2} * std::max(x, T{0}); });
    case UnaryFunction::elu_plus_one:
      return put([](T y) { return std::min(y, T{1}); });
  }
}

template <class T>
void put_strided(int64_t rows, int64_t cols, const StridedCopy<T>& copy) {
  parallel_rows(rows, cols, [&](int64_t row) {
    const T* x = copy.x + row * copy.x_stride;
    put_gradient(copy.y.from(row * copy.y_stride), cols, [x](int64_t col) { return x[col]; });
  });
}

template <class T>
void add_bias(int64_t rows, int64_t cols, const T* x, const T* bias, T* y) {
  parallel_rows(rows, cols, [=](int64_t row) {
    for (int64_t col = 0; col < cols; ++col) y[row * cols + col] = x[row * cols + col] + bias[col];
  });
}

template <class T>
void put_columns(int64_t rows, int64_t cols, const T* value, const Gradient<T>& gradient) {
  parallel_rows(rows, cols, [&](int64_t row) {
    put_gradient(gradient.from(row * cols), cols, [value](int64_t col) { return value[col]; });
  });
}

template <class T>
void mul_columns(int64_t rows, int64_t cols, const T* x, const T* factor, T* y) {
  parallel_rows(rows, cols, [=](int64_t row) {
    for (int64_t col = 0; col < cols; ++col)
      y[row * cols + col] = x[row * cols + col] * factor[col];
  });
}

template <class T>
void mul_columns_backward(int64_t rows, int64_t cols, const MulColumnsBackward<T>& args) {
  ArenaScope scratch(thread_arena());
  const ColumnSums<T> sums(scratch, rows, cols, args.grad_factor);
  sums.for_each_block([&](int64_t begin, int64_t end, T* partial) {
    for (int64_t row = begin; row < end; ++row) {
      const T* grad_y = args.grad_y + row * cols;
      if (args.grad_x) {
        put_gradient(args.grad_x.from(row * cols), cols,
                     [&](int64_t col) { return grad_y[col] * args.factor[col]; });
      }
      if (partial == nullptr) continue;
      const T* x = args.x + row * cols;
      for (int64_t col = 0; col < cols; ++col) partial[col] += grad_y[col] * x[col];
    }
  });
  sums.finish();
}

template <class T>
void mul_rows(int64_t rows, int64_t cols, const T* x, const T* factor, T* y) {
  parallel_rows(rows, cols, [=](int64_t row) {
    for (int64_t i = row * cols; i < (row + 1) * cols; ++i) y[i] = x[i] * factor[row];
  });
}

template <class T>
void put_rows(int64_t rows, int64_t cols, const T* value, const Gradient<T>& gradient) {
  parallel_rows(rows, cols, [&](int64_t row) {
    put_gradient(gradient.from(row * cols), cols, [=](int64_t) { return value[row]; });
  });
}

template <class T>
void mul_rows_backward(int64_t rows, int64_t cols, const MulRowsBackward<T>& args) {
  parallel_rows(rows, cols, [&](int64_t row) {
    const T* x = args.x + row * cols;
    const T* grad_y = args.grad_y + row * cols;
    if (args.grad_x) {
      const T factor = args.factor[row];
      put_gradient(args.grad_x.from(row * cols), cols,
                   [=](int64_t col) { return grad_y[col] * factor; });
    }
    if (args.grad_factor) {
      const T dot = row_dot(cols, grad_y, x);
      put_gradient(args.grad_factor.from(row), 1, [=](int64_t) { return dot; });
    }
  });
}

#define SLUICE_INSTANTIATE(T)                                                                   \
  template void add(int64_t, const T*, const T*, T*);                                           \
  template void sub(int64_t, const T*, const T*, T*);                                           \
  template void mul(int64_t, const T*, const T*, T*);                                           \
  template void scale(int64_t, T, const T*, T*);                                                \
  template void add_constant(int64_t, const T*, T, T*);                                         \
  template void add_scaled(int64_t, const T*, T, const T*, T*);                                 \
  template void put_scaled(int64_t, T, const T*, const Gradient<T>&);                           \
  template void put_product(int64_t, const T*, const T*, const Gradient<T>&);                   \
  template void put_constant(int64_t, T, const Gradient<T>&);                                   \
  template void unary(UnaryFunction, int64_t, const T*, T*);                                    \
  template void unary_backward(UnaryFunction, int64_t, const T*, const T*, const Gradient<T>&); \
  template void put_strided(int64_t, int64_t, const StridedCopy<T>&);                           \
  template void add_bias(int64_t, int64_t, const T*, const T*, T*);                             \
  template void put_columns(int64_t, int64_t, const T*, const Gradient<T>&);                    \
  template void mul_columns(int64_t, int64_t, const T*, const T*, T*);                          \
  template void mul_columns_backward(int64_t, int64_t, const MulColumnsBackward<T>&);           \
  template void mul_rows(int64_t, int64_t, const T*, const T*, T*);                             \
  template void put_rows(int64_t, int64_t, const T*, const Gradient<T>&);                       \
  template void mul_rows_backward(int64_t, int64_t, const MulRowsBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
