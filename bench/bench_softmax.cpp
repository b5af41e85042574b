// Softmax of router scores, forward and backward, and the choice of two experts from it.

#include <memory>

#include "autograd/kernels/reference/softmax.h"
#include "autograd/kernels/reference/top_k.h"
#include "autograd/kernels/softmax.h"
#include "autograd/kernels/top_k.h"
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
        grad_x(x.size()),
        values(static_cast<size_t>(2 * rows)),
        indices(values.size()) {}
  [[nodiscard]] kernels::TopK<float> top_2() {
    return {E, 2, x.data(), values.data(), indices.data()};
  }
  int64_t rows, E;
  std::vector<float> x, grad_y, y, grad_x, values;
  std::vector<int32_t> indices;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double pass = 4.0 * static_cast<double>(p->rows * p->E);
  const std::string forward = fmt::format("softmax/forward/{}", shape.name);
  const std::string backward = fmt::format("softmax/backward/{}", shape.name);
  const std::string top_2 = fmt::format("top_k/2/{}", shape.name);
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
  add_bytes_benchmark(top_2, pass, [p] { kernels::top_k(p->rows, p->top_2()); });
  add_reference_benchmark(top_2, pass, [p] { kernels::reference::top_k(p->rows, p->top_2()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kRouter) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
