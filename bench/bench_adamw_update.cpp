// One fused AdamW step: 28 bytes per parameter.

#include <memory>

#include "autograd/kernels/adamw_update.h"
#include "autograd/kernels/reference/adamw_update.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(int64_t count)
      : n(count),
        grad(random_floats(n, 1)),
        value(random_floats(n, 2)),
        m(grad.size()),
        v(grad.size()) {}
  [[nodiscard]] kernels::AdamWState<float> state() { return {value.data(), m.data(), v.data()}; }
  int64_t n;
  std::vector<float> grad, value, m, v;
};

void add(const std::string& name, int64_t n) {
  const auto p = std::make_shared<Problem>(n);
  const kernels::AdamWStep step{.t = 10, .learning_rate = 1e-6, .weight_decay = 0.1};
  const double bytes = 28.0 * static_cast<double>(n);
  add_bytes_benchmark("adamw_update/" + name, bytes,
                      [p, step] { kernels::adamw_update(p->n, step, p->grad.data(), p->state()); });
  add_reference_benchmark("adamw_update/" + name, bytes, [p, step] {
    kernels::reference::adamw_update(p->n, step, p->grad.data(), p->state());
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add("in_cache_16k", int64_t{16} << 10);
  sluice::bench::add("in_memory_8m", int64_t{8} << 20);
  return sluice::bench::run_benchmarks(argc, argv);
}
