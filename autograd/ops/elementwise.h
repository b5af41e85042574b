#pragma once
// Element by element; operands of equal shape unless said otherwise. Throw ShapeError, DTypeError.

#include "autograd/core/tape.h"

namespace sluice {

[[nodiscard]] Tensor add(Tape& tape, const Tensor& a, const Tensor& b);
[[nodiscard]] Tensor sub(Tape& tape, const Tensor& a, const Tensor& b);
/// a * b. Saves both.
[[nodiscard]] Tensor mul(Tape& tape, const Tensor& a, const Tensor& b);
/// a + factor * b
[[nodiscard]] Tensor add_scaled(Tape& tape, const Tensor& a, const Tensor& b, double factor);
/// factor * x
[[nodiscard]] Tensor scale(Tape& tape, const Tensor& x, double factor);
/// x + constant
[[nodiscard]] Tensor add_constant(Tape& tape, const Tensor& x, double constant);
/// x[..., D] + bias[D]
[[nodiscard]] Tensor add_bias(Tape& tape, const Tensor& x, const Tensor& bias);
/// x[..., D] * factor[D]
[[nodiscard]] Tensor mul_columns(Tape& tape, const Tensor& x, const Tensor& factor);
/// x[n, d] * row[n]: x [N, D], row [N]
[[nodiscard]] Tensor mul_rows(Tape& tape, const Tensor& x, const Tensor& row);

// Functions of one variable (unary.cpp). Each saves its output where the derivative is cheaper from
// it (exp, sqrt, sigmoid, tanh), else x.

[[nodiscard]] Tensor square(Tape& tape, const Tensor& x);
[[nodiscard]] Tensor sqrt(Tape& tape, const Tensor& x);
[[nodiscard]] Tensor exp(Tape& tape, const Tensor& x);
[[nodiscard]] Tensor log(Tape& tape, const Tensor& x);
[[nodiscard]] Tensor tanh(Tape& tape, const Tensor& x);
/// The error function: Phi(x) = (1 + erf(x / 2^(1/2))) / 2 is the normal distribution's.
[[nodiscard]] Tensor erf(Tape& tape, const Tensor& x);
/// 1 / (1 + e^-x)
[[nodiscard]] Tensor sigmoid(Tape& tape, const Tensor& x);
/// log(1 + e^x)
[[nodiscard]] Tensor softplus(Tape& tape, const Tensor& x);
/// x sigmoid(x)
[[nodiscard]] Tensor silu(Tape& tape, const Tensor& x);
/// GPT-2's gelu_new (Hendrycks and Gimpel 2016).
[[nodiscard]] Tensor gelu_tanh(Tape& tape, const Tensor& x);
/// max(x, 0); slope 0 at 0.
[[nodiscard]] Tensor relu(Tape& tape, const Tensor& x);
/// max(x, 0)^2 (So et al. 2021, "Primer").
[[nodiscard]] Tensor relu_squared(Tape& tape, const Tensor& x);
/// x + 1 for x > 0, else e^x: the feature map of Katharopoulos et al. 2020.
[[nodiscard]] Tensor elu_plus_one(Tape& tape, const Tensor& x);

}  // namespace sluice
