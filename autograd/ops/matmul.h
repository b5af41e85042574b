#pragma once
// Matrix products.

#include <array>
#include <span>

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

/// weight [out, in], and bias [out] or undefined.
struct LinearWeights {
  Tensor weight;
  Tensor bias;
};

/// Most weights of one joint_linear.
inline constexpr size_t kMostJointWeights = 8;

/// y_j[n, o] = sum_i x[n, i] w_j[o, i] + b_j[o] for every j: linear() of one x by several weights, as
/// one product forward, one for the gradient of x and one for those of the weights, with the bits of
/// one linear() each. outputs[j] belongs to linears[j]. Saves x and the weights, those whose partner
/// wants a gradient. Throws ShapeError, DTypeError.
void joint_linear(Tape& tape, const Tensor& x, std::span<const LinearWeights> linears,
                  std::span<Tensor> outputs);

template <size_t n>
[[nodiscard]] std::array<Tensor, n> joint_linear(Tape& tape, const Tensor& x,
                                                 const std::array<LinearWeights, n>& linears) {
  std::array<Tensor, n> outputs;
  joint_linear(tape, x, linears, outputs);
  return outputs;
}

}  // namespace sluice
