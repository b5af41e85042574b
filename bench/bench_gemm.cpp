// Matrix products in the three forms of a linear layer: forward (nt), gradient of the input (nn),
// gradient of the weight (tn), by our own kernel and by each library; and ours with the weight packed
// beforehand. Then the three projections of attention, each of those forms as one product in turns with
// three (over_three).

#include <array>
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

/// y_i = x weight_i^T with their gradients, i < 3.
struct Projections {
  explicit Projections(const ProductShape& shape)
      : M(shape.M),
        N(shape.N),
        K(shape.K),
        x(random_floats(M * K, 1)),
        grad_x(static_cast<size_t>(M * K)) {
    for (size_t i = 0; i < 3; ++i) {
      weight[i] = random_floats(N * K, 2 + i);
      y[i] = random_floats(M * N, 5 + i);
      grad_weight[i].resize(static_cast<size_t>(N * K));
      forward[i] = {N, {weight[i].data(), K, true}, {y[i].data(), N}};
      weights[i] = {N, {y[i].data(), N, true}, {grad_weight[i].data(), K}};
      input[i] = {N, {y[i].data(), N}, {weight[i].data(), K}};
    }
  }
  int64_t M, N, K;
  std::vector<float> x, grad_x;
  std::array<std::vector<float>, 3> weight, y, grad_weight;
  std::array<kernels::JointProduct<float>, 3> forward{}, weights{};
  std::array<kernels::GemmTerm<float>, 3> input{};
};

void add_projections(const ProductShape& shape) {
  using kernels::gemm;
  const auto p = std::make_shared<Projections>(shape);
  const auto add_form = [&](const char* form, const std::function<void()>& joint,
                            const std::function<void()>& three) {
    add_turns_benchmark(fmt::format("gemm_joint/{}/{}", form, shape.name), one_and_all_threads(),
                        joint, {"three", three});
  };
  add_form(
      "nt",
      [p] {
        kernels::gemm_joint_columns<float>(p->M, p->K, {p->x.data(), p->K}, p->forward);
      },
      [p] {
        for (const auto& each : p->forward) {
          gemm<float>({p->M, each.n, p->K}, {p->x.data(), p->K}, each.operand, each.c);
        }
      });
  if (p->M == 1) return;  // decoding has no backward
  add_form(
      "nn",
      [p] {
        kernels::gemm_sum<float>(p->M, p->K, p->input, {p->grad_x.data(), p->K});
      },
      [p] {
        float beta = 0.0F;
        for (const auto& term : p->input) {
          gemm<float>({p->M, p->K, term.K}, term.a, term.b, {p->grad_x.data(), p->K, 1.0F, beta});
          beta = 1.0F;
        }
      });
  add_form(
      "tn",
      [p] {
        kernels::gemm_joint_rows<float>(p->K, p->M, p->weights, {p->x.data(), p->K});
      },
      [p] {
        for (const auto& each : p->weights) {
          gemm<float>({each.n, p->K, p->M}, each.operand, {p->x.data(), p->K}, each.c);
        }
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
  for (const auto& shape : sluice::bench::kProjections) sluice::bench::add_projections(shape);
  for (const auto& shape : sluice::bench::kDecoding) sluice::bench::add(shape, "nt", false, true);
  return sluice::bench::run_benchmarks(argc, argv);
}
