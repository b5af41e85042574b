#include "bench/gemm_dnnl.h"

#include <omp.h>
#include <oneapi/dnnl/dnnl.h>

#include "autograd/support/error.h"
#include "autograd/support/parallel.h"

namespace sluice::bench {
namespace {

/// OpenMP's number of threads for the calling thread, which is what oneDNN goes by.
class OpenMpThreads {
 public:
  explicit OpenMpThreads(int threads) : before_(omp_get_max_threads()) {
    omp_set_num_threads(threads);
  }
  ~OpenMpThreads() { omp_set_num_threads(before_); }
  OpenMpThreads(const OpenMpThreads&) = delete;
  OpenMpThreads& operator=(const OpenMpThreads&) = delete;

 private:
  int before_;
};

}  // namespace

void gemm_dnnl(kernels::GemmSize size, kernels::GemmOperand<float> a, kernels::GemmOperand<float> b,
               kernels::GemmResult<float> c) {
  const auto [M, N, K] = size;
  if (M == 0 || N == 0) return;
  if (K == 0) {  // refused there
    for (int64_t i = 0; i < M; ++i) {
      float* row = c.data + i * c.stride;
      for (int64_t j = 0; j < N; ++j) row[j] = c.beta == 0.0F ? 0.0F : c.beta * row[j];
    }
    return;
  }
  const OpenMpThreads threads(omp_in_parallel() != 0 ? 1 : num_threads());
  const dnnl_status_t status =
      dnnl_sgemm(a.transposed ? 'T' : 'N', b.transposed ? 'T' : 'N', M, N, K, c.alpha,
                 a.data.plain(), a.stride, b.data.plain(), b.stride, c.beta, c.data, c.stride);
  SLUICE_INTERNAL_CHECK(status == dnnl_success, "dnnl_sgemm of {} x {} x {} ended with status {}",
                        M, N, K, static_cast<int>(status));
}

}  // namespace sluice::bench
