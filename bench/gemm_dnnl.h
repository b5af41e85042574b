#pragma once
// oneDNN's matrix product behind the signature of kernels/gemm.h: the strongest library that ours is
// measured against. Built only where oneDNN was found when the build was configured
// (SLUICE_WITH_DNNL), and only into benchmarks: training never calls it, because it promises no
// order of the sum, and cuts K by the number of threads (see kernels/gemm.h).

#include "autograd/kernels/gemm.h"

namespace sluice::bench {

/// C = alpha op(A) op(B) + beta C in f32, by dnnl_sgemm on num_threads() threads of its own; on one
/// inside a parallel loop. Throws InternalError when oneDNN refuses.
void gemm_dnnl(kernels::GemmSize size, kernels::GemmOperand<float> a, kernels::GemmOperand<float> b,
               kernels::GemmResult<float> c);

}  // namespace sluice::bench
