#pragma once
// Matrix products.

#include "autograd/core/tape.h"

namespace sluice {

/// Which operands are read transposed.
enum class MatmulForm : uint8_t { nn, nt, tn };

/// nn: c[M, N] = a[M, K] b[K, N]; nt: c = a[M, K] b[N, K]^T; tn: c = a[K, M]^T b[K, N]. The first
/// operand of nn and nt may have more dimensions, whose leading ones are rows. Saves both operands
/// (those whose partner wants a gradient). Throws ShapeError, DTypeError.
[[nodiscard]] Tensor matmul(Tape& tape, const Tensor& a, const Tensor& b,
                            MatmulForm form = MatmulForm::nn);

/// y[n, o] = sum_i x[n, i] w[o, i], + bias[o] when `bias` is defined: the layer of every checkpoint
/// format.
[[nodiscard]] Tensor linear(Tape& tape, const Tensor& x, const Tensor& weight,
                            const Tensor& bias = {});

}  // namespace sluice
