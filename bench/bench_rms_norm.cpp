// RMSNorm forward and backward.

#include <memory>

#include "autograd/kernels/reference/rms_norm.h"
#include "autograd/kernels/rms_norm.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const RowsShape& shape)
      : rows(shape.rows),
        D(shape.cols),
        x(random_floats(rows * D, 1)),
        weight(random_floats(D, 2)),
        grad_y(random_floats(rows * D, 3)),
        y(x.size()),
        r(static_cast<size_t>(rows), 1.0F),
        grad_x(x.size()),
        grad_weight(weight.size()) {}
  [[nodiscard]] kernels::RmsNorm<float> forward() {
    return {x.data(), weight.data(), 1e-5, y.data(), r.data()};
  }
  [[nodiscard]] kernels::RmsNormBackward<float> backward() {
    return {.x = x.data(),
            .weight = weight.data(),
            .reciprocal_rms = r.data(),
            .grad_y = grad_y.data(),
            .grad_x = {grad_x.data(), false},
            .grad_weight = {grad_weight.data(), true}};
  }
  int64_t rows, D;
  std::vector<float> x, weight, grad_y, y, r, grad_x, grad_weight;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double pass = 4.0 * static_cast<double>(p->rows * p->D);
  add_bytes_benchmark(
      fmt::format("rms_norm/forward/{}", shape.name), 2 * pass,
      [p] { kernels::rms_norm(p->rows, p->D, p->forward()); },
      [p] { kernels::reference::rms_norm(p->rows, p->D, p->forward()); });
  add_bytes_benchmark(
      fmt::format("rms_norm/backward/{}", shape.name), 3 * pass,
      [p] { kernels::rms_norm_backward(p->rows, p->D, p->backward()); },
      [p] { kernels::reference::rms_norm_backward(p->rows, p->D, p->backward()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kHidden) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
