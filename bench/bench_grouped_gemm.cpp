// The products of all experts of a layer, with loads as uneven as an untrained router's: expert e
// has a share proportional to 1 + e mod 4. Beside them the plain loop: one gemm per expert, each
// parallel inside.

#include <memory>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/grouped_gemm.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const ExpertsShape& shape)
      : offsets(uneven_offsets(shape)),
        groups{shape.E, offsets.data(), shape.I, shape.O},
        rows(offsets.back()),
        x(random_floats(rows * shape.I, 1)),
        weight(random_floats(shape.E * shape.O * shape.I, 2)),
        y(static_cast<size_t>(rows * shape.O)),
        grad_y(random_floats(rows * shape.O, 3)),
        grad_x(x.size()),
        grad_weight(weight.size()) {}

  [[nodiscard]] static std::vector<int32_t> uneven_offsets(const ExpertsShape& shape) {
    std::vector<int32_t> offsets{0};
    for (int64_t e = 0; e < shape.E; ++e) {
      const int64_t share = shape.rows * 2 * (1 + e % 4) / (5 * shape.E);
      offsets.push_back(offsets.back() + static_cast<int32_t>(share));
    }
    return offsets;
  }
  [[nodiscard]] double flops() const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(groups.O) *
           static_cast<double>(groups.I);
  }
  /// One parallel product after the other.
  void loop_over_experts() {
    for (int64_t e = 0; e < groups.E; ++e) {
      const int64_t first = offsets[static_cast<size_t>(e)];
      kernels::gemm<float>({groups.rows(e), groups.O, groups.I},
                           {x.data() + first * groups.I, groups.I},
                           {weight.data() + e * groups.O * groups.I, groups.I, true},
                           {y.data() + first * groups.O, groups.O});
    }
  }
  std::vector<int32_t> offsets;
  kernels::Groups groups;
  int64_t rows;
  std::vector<float> x, weight, y, grad_y, grad_x, grad_weight;
};

void add(const ExpertsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const auto threads = one_and_all_threads();
  const auto name = [&](const char* what) {
    return fmt::format("grouped_gemm/{}/{}", what, shape.name);
  };
  add_flops_benchmark(name("forward"), p->flops(), threads, [p] {
    kernels::grouped_gemm(p->groups, p->x.data(), p->weight.data(), p->y.data());
  });
  add_flops_benchmark(name("forward") + "/loop", p->flops(), threads,
                      [p] { p->loop_over_experts(); });
  add_flops_benchmark(name("grad_x"), p->flops(), threads, [p] {
    kernels::grouped_gemm_grad_x<float>(p->groups, p->grad_y.data(), p->weight.data(),
                                        {p->grad_x.data(), false});
  });
  add_flops_benchmark(name("grad_weight"), p->flops(), threads, [p] {
    kernels::grouped_gemm_grad_weight<float>(p->groups, {p->grad_y.data()}, {p->x.data()},
                                             {p->grad_weight.data(), false});
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kExperts) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
