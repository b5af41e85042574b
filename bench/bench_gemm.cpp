// Matrix products in the three forms of a linear layer: forward (nt), gradient of the input (nn),
// gradient of the weight (tn), by our own kernel and by each library; and ours with the weight packed
// beforehand.

#include <memory>

#include "autograd/kernels/gemm.h"
#include "bench/gemm_libraries.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  Problem(const ProductShape& shape, bool a_transposed, bool b_transposed)
      : size{shape.M, shape.N, shape.K},
        a(random_floats(size.M * size.K, 1)),
        b(random_floats(size.K * size.N, 2)),
        c(static_cast<size_t>(size.M * size.N)),
        packed(static_cast<size_t>(kernels::packed_size<float>(size.N, size.K))),
        left{a.data(), a_transposed ? size.M : size.K, a_transposed},
        right{b.data(), b_transposed ? size.K : size.N, b_transposed} {
    kernels::pack<float>(size.N, size.K, right, packed.data());
  }
  [[nodiscard]] kernels::GemmResult<float> result() { return {c.data(), size.N}; }
  [[nodiscard]] double flops() const {
    return 2.0 * static_cast<double>(size.M) * static_cast<double>(size.N) *
           static_cast<double>(size.K);
  }
  kernels::GemmSize size;
  std::vector<float> a, b, c, packed;
  kernels::GemmOperand<float> left, right;
};

void add(const ProductShape& shape, const char* form, bool a_transposed, bool b_transposed) {
  const auto p = std::make_shared<Problem>(shape, a_transposed, b_transposed);
  const std::string name = fmt::format("gemm/{}/{}", form, shape.name);
  for (const GemmLibrary& library : gemm_libraries()) {
    add_flops_benchmark(fmt::format("{}/{}", name, library.name), p->flops(), one_and_all_threads(),
                        [p, library] { library.gemm(p->size, p->left, p->right, p->result()); });
  }
  add_flops_benchmark(name + "/own_packed", p->flops(), {1}, [p] {
    kernels::gemm_packed<float>(p->size, p->left, p->packed.data(), p->result());
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kProducts) {
    sluice::bench::add(shape, "nt", false, true);
    sluice::bench::add(shape, "nn", false, false);
    sluice::bench::add(shape, "tn", true, false);
  }
  for (const auto& shape : sluice::bench::kDecoding) sluice::bench::add(shape, "nt", false, true);
  return sluice::bench::run_benchmarks(argc, argv);
}
