#pragma once
// Eigen's matrix product behind the signature of gemm.h, single-threaded: the baseline of
// bench_gemm and a second opinion for its test. Training never calls it, for the reasons given in
// gemm.h. Operands of T, without an index, only.

#include "autograd/kernels/gemm.h"

namespace sluice::kernels {

template <class T>
void gemm_eigen(GemmSize size, GemmOperand<T> a, GemmOperand<T> b, GemmResult<T> c);

}  // namespace sluice::kernels
