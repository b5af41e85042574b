// Experts whose weights are products of two axes, with one entry in sixteen kept, as Monet's routers do.

#include <memory>

#include "autograd/kernels/factored_mix.h"
#include "autograd/kernels/reference/factored_mix.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

constexpr int64_t kKeptOneIn = 16;

std::vector<float> weights(int64_t size, uint64_t seed) {
  std::vector<float> result = random_floats(size, seed);
  for (size_t i = 0; i < result.size(); ++i) {
    if (uniform_below({.seed = seed}, 1, i, kKeptOneIn) != 0) result[i] = 0.0F;
  }
  return result;
}

struct Problem {
  explicit Problem(const kernels::MixShape& shape)
      : s(shape),
        from(weights(s.N * s.H * s.n, 1)),
        to(weights(s.N * s.H * s.n, 2)),
        a(random_floats(s.N * s.n * s.m, 3)),
        z(a.size()),
        grad_from(from.size()),
        grad_to(to.size()),
        grad_a(a.size()) {}
  [[nodiscard]] kernels::MixInputs<float> inputs() const {
    return {from.data(), to.data(), a.data()};
  }
  [[nodiscard]] kernels::FactoredMixBackward<float> backward() {
    return {inputs(),
            a.data(),
            {grad_from.data(), false},
            {grad_to.data(), false},
            {grad_a.data(), false}};
  }
  kernels::MixShape s;
  std::vector<float> from, to, a, z, grad_from, grad_to, grad_a;
};

void add(const std::string& name, const kernels::MixShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double once = 4.0 * static_cast<double>(p->from.size() + p->to.size() + 2 * p->a.size());
  add_bytes_benchmark(
      "factored_mix/forward/" + name, once,
      [p] { kernels::factored_mix<float>(p->s, p->inputs(), p->z.data()); },
      [p] { kernels::reference::factored_mix<float>(p->s, p->inputs(), p->z.data()); });
  add_bytes_benchmark(
      "factored_mix/backward/" + name, 2 * once,
      [p] { kernels::factored_mix_backward<float>(p->s, p->backward()); },
      [p] { kernels::reference::factored_mix_backward<float>(p->s, p->backward()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add("tokens_1k_axis_64", {1024, 4, 64, 8});
  sluice::bench::add("tokens_256_axis_512", {256, 8, 512, 8});
  return sluice::bench::run_benchmarks(argc, argv);
}
