// GELU in its tanh form, forward and backward.

#include <memory>

#include "autograd/kernels/gelu.h"
#include "autograd/kernels/reference/gelu.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(int64_t count)
      : n(count),
        x(random_floats(n, 1)),
        grad_y(random_floats(n, 2)),
        y(x.size()),
        grad_x(x.size()) {}
  int64_t n;
  std::vector<float> x, grad_y, y, grad_x;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape.rows * shape.cols);
  const double pass = 4.0 * static_cast<double>(p->n);
  const std::string forward = fmt::format("gelu/forward/{}", shape.name);
  const std::string backward = fmt::format("gelu/backward/{}", shape.name);
  add_bytes_benchmark(forward, 2 * pass,
                      [p] { kernels::gelu_tanh(p->n, p->x.data(), p->y.data()); });
  add_reference_benchmark(forward, 2 * pass,
                          [p] { kernels::reference::gelu_tanh(p->n, p->x.data(), p->y.data()); });
  add_bytes_benchmark(backward, 3 * pass, [p] {
    kernels::gelu_tanh_backward<float>(p->n, p->x.data(), p->grad_y.data(),
                                       {p->grad_x.data(), false});
  });
  add_reference_benchmark(backward, 3 * pass, [p] {
    kernels::reference::gelu_tanh_backward<float>(p->n, p->x.data(), p->grad_y.data(),
                                                  {p->grad_x.data(), false});
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kFeedForward) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
