// Layer normalisation, forward and backward.

#include <memory>

#include "autograd/kernels/layer_norm.h"
#include "autograd/kernels/reference/layer_norm.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const RowsShape& shape)
      : rows(shape.rows),
        D(shape.cols),
        x(random_floats(rows * D, 1)),
        weight(random_floats(D, 2)),
        bias(random_floats(D, 3)),
        grad_y(random_floats(rows * D, 4)),
        y(x.size()),
        mean(static_cast<size_t>(rows), 0.0F),
        reciprocal(mean.size(), 1.0F),
        grad_x(x.size()),
        grad_weight(weight.size()),
        grad_bias(bias.size()) {}
  [[nodiscard]] kernels::LayerNorm<float> forward() {
    return {x.data(), weight.data(), bias.data(), 1e-5, y.data(), mean.data(), reciprocal.data()};
  }
  [[nodiscard]] kernels::LayerNormBackward<float> backward() {
    return {.x = x.data(),
            .weight = weight.data(),
            .mean = mean.data(),
            .reciprocal_deviation = reciprocal.data(),
            .grad_y = grad_y.data(),
            .grad_x = {grad_x.data(), false},
            .grad_weight = {grad_weight.data(), true},
            .grad_bias = {grad_bias.data(), true}};
  }
  int64_t rows, D;
  std::vector<float> x, weight, bias, grad_y, y, mean, reciprocal, grad_x, grad_weight, grad_bias;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double pass = 4.0 * static_cast<double>(p->rows * p->D);
  add_bytes_benchmark(
      fmt::format("layer_norm/forward/{}", shape.name), 2 * pass,
      [p] { kernels::layer_norm(p->rows, p->D, p->forward()); },
      [p] { kernels::reference::layer_norm(p->rows, p->D, p->forward()); });
  add_bytes_benchmark(
      fmt::format("layer_norm/backward/{}", shape.name), 3 * pass,
      [p] { kernels::layer_norm_backward(p->rows, p->D, p->backward()); },
      [p] { kernels::reference::layer_norm_backward(p->rows, p->D, p->backward()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kHidden) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
