#pragma once
// The functions of one variable and the broadcasts of elementwise.h as plain loops. (Sums and
// products are their own reference.)

#include <algorithm>
#include <cmath>
#include <numbers>

#include "autograd/kernels/elementwise.h"

namespace sluice::kernels::reference {

template <class T>
T value_of(UnaryFunction f, T x) {
  const T sigmoid = 1 / (1 + std::exp(-x));
  switch (f) {
    case UnaryFunction::exp:
      return std::exp(x);
    case UnaryFunction::log:
      return std::log(x);
    case UnaryFunction::sqrt:
      return std::sqrt(x);
    case UnaryFunction::square:
      return x * x;
    case UnaryFunction::sigmoid:
      return sigmoid;
    case UnaryFunction::tanh:
      return std::tanh(x);
    case UnaryFunction::erf:
      return std::erf(x);
    case UnaryFunction::softplus:
      return std::log(1 + std::exp(x));
    case UnaryFunction::silu:
      return x * sigmoid;
    case UnaryFunction::relu:
      return x > 0 ? x : T{0};
    case UnaryFunction::relu_squared:
      return x > 0 ? x * x : T{0};
    case UnaryFunction::elu_plus_one:
      return x > 0 ? x + 1 : std::exp(x);
  }
  return x;
}

/// f'(x)
template <class T>
T slope_of(UnaryFunction f, T x) {
  const T sigmoid = 1 / (1 + std::exp(-x));
  switch (f) {
    case UnaryFunction::exp:
      return std::exp(x);
    case UnaryFunction::log:
      return 1 / x;
    case UnaryFunction::sqrt:
      return 1 / (2 * std::sqrt(x));
    case UnaryFunction::square:
      return 2 * x;
    case UnaryFunction::sigmoid:
      return sigmoid * (1 - sigmoid);
    case UnaryFunction::tanh:
      return 1 - std::tanh(x) * std::tanh(x);
    case UnaryFunction::erf:
      return 2 * std::numbers::inv_sqrtpi_v<T> * std::exp(-x * x);
    case UnaryFunction::softplus:
      return sigmoid;
    case UnaryFunction::silu:
      return sigmoid * (1 + x * (1 - sigmoid));
    case UnaryFunction::relu:
      return x > 0 ? T{1} : T{0};
    case UnaryFunction::relu_squared:
      return x > 0 ? 2 * x : T{0};
    case UnaryFunction::elu_plus_one:
      return x > 0 ? T{1} : std::exp(x);
  }
  return T{1};
}

template <class T>
void mul_columns_backward(int64_t rows, int64_t cols, const MulColumnsBackward<T>& args) {
  zero_unless_accumulating(args.grad_x, rows * cols);
  zero_unless_accumulating(args.grad_factor, cols);
  for (int64_t i = 0; i < rows * cols; ++i) {
    if (args.grad_x) args.grad_x.data[i] += args.grad_y[i] * args.factor[i % cols];
    if (args.grad_factor) args.grad_factor.data[i % cols] += args.grad_y[i] * args.x[i];
  }
}

template <class T>
void mul_rows_backward(int64_t rows, int64_t cols, const MulRowsBackward<T>& args) {
  zero_unless_accumulating(args.grad_x, rows * cols);
  zero_unless_accumulating(args.grad_factor, rows);
  for (int64_t i = 0; i < rows * cols; ++i) {
    if (args.grad_x) args.grad_x.data[i] += args.grad_y[i] * args.factor[i / cols];
    if (args.grad_factor) args.grad_factor.data[i / cols] += args.grad_y[i] * args.x[i];
  }
}

}  // namespace sluice::kernels::reference
