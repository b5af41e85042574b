// Gated RMSNorm, the gate first, forward and backward.

#include <memory>

#include "autograd/kernels/gated_rms_norm.h"
#include "autograd/kernels/reference/gated_rms_norm.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const RowsShape& s)
      : rows(s.rows),
        shape{s.cols, s.cols, false, 1e-5},
        x(random_floats(s.rows * s.cols, 1)),
        z(random_floats(s.rows * s.cols, 2)),
        weight(random_floats(s.cols, 3)),
        grad_y(random_floats(s.rows * s.cols, 4)),
        y(x.size()),
        r(static_cast<size_t>(s.rows), 1.0F),
        grad_x(x.size()),
        grad_z(x.size()),
        grad_weight(weight.size()) {}
  [[nodiscard]] kernels::GatedRmsNorm<float> forward() {
    return {x.data(), z.data(), weight.data(), y.data(), r.data()};
  }
  [[nodiscard]] kernels::GatedRmsNormBackward<float> backward() {
    return {x.data(),
            z.data(),
            weight.data(),
            r.data(),
            grad_y.data(),
            {grad_x.data(), false},
            {grad_z.data(), false},
            {grad_weight.data(), true}};
  }
  int64_t rows;
  kernels::GatedRmsNormShape shape;
  std::vector<float> x, z, weight, grad_y, y, r, grad_x, grad_z, grad_weight;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double pass = 4.0 * static_cast<double>(p->x.size());
  const std::string forward = fmt::format("gated_rms_norm/forward/{}", shape.name);
  const std::string backward = fmt::format("gated_rms_norm/backward/{}", shape.name);
  add_bytes_benchmark(forward, 3 * pass,
                      [p] { kernels::gated_rms_norm(p->rows, p->shape, p->forward()); });
  add_reference_benchmark(forward, 3 * pass, [p] {
    kernels::reference::gated_rms_norm(p->rows, p->shape, p->forward());
  });
  add_bytes_benchmark(backward, 5 * pass,
                      [p] { kernels::gated_rms_norm_backward(p->rows, p->shape, p->backward()); });
  add_reference_benchmark(backward, 5 * pass, [p] {
    kernels::reference::gated_rms_norm_backward(p->rows, p->shape, p->backward());
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kFeedForward) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
