// Softmax of router scores, forward and backward.

#include <memory>

#include "autograd/kernels/reference/softmax.h"
#include "autograd/kernels/softmax.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const RowsShape& shape)
      : rows(shape.rows),
        E(shape.cols),
        x(random_floats(rows * E, 1)),
        grad_y(random_floats(rows * E, 2)),
        y(x.size()),
        grad_x(x.size()) {}
  int64_t rows, E;
  std::vector<float> x, grad_y, y, grad_x;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double pass = 4.0 * static_cast<double>(p->rows * p->E);
  const std::string forward = fmt::format("softmax/forward/{}", shape.name);
  const std::string backward = fmt::format("softmax/backward/{}", shape.name);
  add_bytes_benchmark(forward, 2 * pass,
                      [p] { kernels::softmax(p->rows, p->E, p->x.data(), p->y.data()); });
  add_reference_benchmark(forward, 2 * pass, [p] {
    kernels::reference::softmax(p->rows, p->E, p->x.data(), p->y.data());
  });
  add_bytes_benchmark(backward, 3 * pass, [p] {
    kernels::softmax_backward<float>(p->rows, p->E, p->y.data(), p->grad_y.data(),
                                     {p->grad_x.data(), false});
  });
  add_reference_benchmark(backward, 3 * pass, [p] {
    kernels::reference::softmax_backward<float>(p->rows, p->E, p->y.data(), p->grad_y.data(),
                                                {p->grad_x.data(), false});
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kRouter) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
