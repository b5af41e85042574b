#pragma once
// Element by element: sums, products, functions of one variable, and the two broadcasts of a matrix
// (one value per row, one per column). An element's bits depend on that element alone, wherever it
// stands in the array.
//
// Outputs may not overlap inputs unless they are the same pointer.

#include <cstdint>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

/// y = a + b
template <class T>
void add(int64_t n, const T* a, const T* b, T* y);
/// y = a - b
template <class T>
void sub(int64_t n, const T* a, const T* b, T* y);
/// y = a * b
template <class T>
void mul(int64_t n, const T* a, const T* b, T* y);
/// y = factor * x
template <class T>
void scale(int64_t n, T factor, const T* x, T* y);
/// y = x + constant
template <class T>
void add_constant(int64_t n, const T* x, T constant, T* y);
/// y = a + factor * b
template <class T>
void add_scaled(int64_t n, const T* a, T factor, const T* b, T* y);

/// gradient = factor * x
template <class T>
void put_scaled(int64_t n, T factor, const T* x, const Gradient<T>& gradient);
/// gradient = a * b
template <class T>
void put_product(int64_t n, const T* a, const T* b, const Gradient<T>& gradient);
/// gradient = value, everywhere
template <class T>
void put_constant(int64_t n, T value, const Gradient<T>& gradient);

/// Functions of one variable.
enum class UnaryFunction : uint8_t {
  exp,
  log,
  sqrt,
  square,
  sigmoid,  // 1 / (1 + e^-x)
  tanh,
  erf,           // 2 / pi^(1/2) times the integral of e^(-t^2) from 0 to x
  softplus,      // log(1 + e^x), as max(x, 0) + log1p(e^-|x|)
  silu,          // x sigmoid(x)
  relu,          // max(x, 0)
  relu_squared,  // max(x, 0)^2 (So et al. 2021, "Primer")
  elu_plus_one,  // x + 1 for x > 0, else e^x (Katharopoulos et al. 2020)
};

/// True when the derivative is computed from y = f(x) and not from x: what the backward needs
/// saved.
[[nodiscard]] constexpr bool differentiates_from_output(UnaryFunction f) {
  return f == UnaryFunction::exp || f == UnaryFunction::sqrt || f == UnaryFunction::sigmoid ||
         f == UnaryFunction::tanh || f == UnaryFunction::relu || f == UnaryFunction::elu_plus_one;
}

/// y = f(x)
template <class T>
void unary(UnaryFunction f, int64_t n, const T* x, T* y);
/// grad_x = f'(x) grad_y; `saved` is y where differentiates_from_output(f), else x.
template <class T>
void unary_backward(UnaryFunction f, int64_t n, const T* saved, const T* grad_y,
                    const Gradient<T>& grad_x);

/// A [rows, cols] part of a wider array.
template <class T>
struct StridedCopy {
  const T* x;
  int64_t x_stride;  // elements from one row to the next
  Gradient<T> y;
  int64_t y_stride;
};

/// y[row * y_stride + col] = x[row * x_stride + col]
template <class T>
void put_strided(int64_t rows, int64_t cols, const StridedCopy<T>& copy);

/// y[row, col] = x[row, col] + bias[col]
template <class T>
void add_bias(int64_t rows, int64_t cols, const T* x, const T* bias, T* y);
/// gradient[row, col] = value[col]
template <class T>
void put_columns(int64_t rows, int64_t cols, const T* value, const Gradient<T>& gradient);
/// y[row, col] = x[row, col] * factor[col]
template <class T>
void mul_columns(int64_t rows, int64_t cols, const T* x, const T* factor, T* y);

template <class T>
struct MulColumnsBackward {
  const T* x;               // [rows, cols]
  const T* factor;          // [cols]
  const T* grad_y;          // [rows, cols]
  Gradient<T> grad_x;       // [rows, cols] = grad_y[row, col] factor[col]
  Gradient<T> grad_factor;  // [cols] = sum_row grad_y[row, col] x[row, col]
};

template <class T>
void mul_columns_backward(int64_t rows, int64_t cols, const MulColumnsBackward<T>& args);

/// y[row, col] = x[row, col] * factor[row]
template <class T>
void mul_rows(int64_t rows, int64_t cols, const T* x, const T* factor, T* y);
/// gradient[row, col] = value[row]
template <class T>
void put_rows(int64_t rows, int64_t cols, const T* value, const Gradient<T>& gradient);

template <class T>
struct MulRowsBackward {
  const T* x;               // [rows, cols]
  const T* factor;          // [rows]
  const T* grad_y;          // [rows, cols]
  Gradient<T> grad_x;       // [rows, cols] = grad_y[row, col] factor[row]
  Gradient<T> grad_factor;  // [rows] = sum_col grad_y[row, col] x[row, col]
};

template <class T>
void mul_rows_backward(int64_t rows, int64_t cols, const MulRowsBackward<T>& args);

}  // namespace sluice::kernels
