#include "autograd/kernels/gemm_eigen.h"

#if defined(__GNUC__) && !defined(__clang__)
// GCC 12 takes the undefined pass-through operand of AVX-512 intrinsics, inside Eigen, for a bug.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#define EIGEN_DONT_PARALLELIZE
#include <Eigen/Core>

namespace sluice::kernels {
namespace {

template <class T>
using RowMajor = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

/// The matrix as it lies in memory; rows and cols are those of op(X).
template <class T>
auto map_operand(const GemmOperand<T>& x, int64_t rows, int64_t cols) {
  if (x.transposed) std::swap(rows, cols);
  return Eigen::Map<const RowMajor<T>, Eigen::Unaligned, Eigen::OuterStride<>>(
      x.data.plain(), rows, cols, Eigen::OuterStride<>(x.stride));
}

template <class Left, class Right, class Result, class T>
void put_product(const Left& left, const Right& right, T alpha, T beta, Result&& c) {
  if (beta == T{0}) {
    c.noalias() = alpha * left * right;
  } else {
    c *= beta;
    c.noalias() += alpha * left * right;
  }
}

}  // namespace

template <class T>
void gemm_eigen(GemmSize size, GemmOperand<T> a, GemmOperand<T> b, GemmResult<T> c) {
  const auto [M, N, K] = size;
  const auto left = map_operand(a, M, K);
  const auto right = map_operand(b, K, N);
  Eigen::Map<RowMajor<T>, Eigen::Unaligned, Eigen::OuterStride<>> result(
      c.data, M, N, Eigen::OuterStride<>(c.stride));
  if (a.transposed && b.transposed) {
    put_product(left.transpose(), right.transpose(), c.alpha, c.beta, result);
  } else if (a.transposed) {
    put_product(left.transpose(), right, c.alpha, c.beta, result);
  } else if (b.transposed) {
    put_product(left, right.transpose(), c.alpha, c.beta, result);
  } else {
    put_product(left, right, c.alpha, c.beta, result);
  }
}

template void gemm_eigen<float>(GemmSize, GemmOperand<float>, GemmOperand<float>,
                                GemmResult<float>);
template void gemm_eigen<double>(GemmSize, GemmOperand<double>, GemmOperand<double>,
                                 GemmResult<double>);

}  // namespace sluice::kernels
