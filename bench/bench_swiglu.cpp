// SwiGLU's element-wise half, forward and backward.

#include <memory>

#include "autograd/kernels/reference/swiglu.h"
#include "autograd/kernels/swiglu.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const RowsShape& shape)
      : rows(shape.rows),
        F(shape.cols),
        gate(random_floats(rows * F, 1)),
        up(random_floats(rows * F, 2)),
        grad_h(random_floats(rows * F, 3)),
        h(gate.size()),
        grad_gate(gate.size()),
        grad_up(gate.size()) {}
  [[nodiscard]] kernels::SwiGlu<float> forward() { return {gate.data(), up.data(), F, h.data()}; }
  [[nodiscard]] kernels::SwiGluBackward<float> backward() {
    return {.gate = gate.data(),
            .up = up.data(),
            .in_stride = F,
            .grad_h = grad_h.data(),
            .grad_gate = {grad_gate.data(), false},
            .grad_up = {grad_up.data(), false}};
  }
  int64_t rows, F;
  std::vector<float> gate, up, grad_h, h, grad_gate, grad_up;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double pass = 4.0 * static_cast<double>(p->rows * p->F);
  const std::string forward = fmt::format("swiglu/forward/{}", shape.name);
  const std::string backward = fmt::format("swiglu/backward/{}", shape.name);
  add_bytes_benchmark(forward, 3 * pass, [p] { kernels::swiglu(p->rows, p->F, p->forward()); });
  add_reference_benchmark(forward, 3 * pass,
                          [p] { kernels::reference::swiglu(p->rows, p->F, p->forward()); });
  add_bytes_benchmark(backward, 5 * pass,
                      [p] { kernels::swiglu_backward(p->rows, p->F, p->backward()); });
  add_reference_benchmark(backward, 5 * pass, [p] {
    kernels::reference::swiglu_backward(p->rows, p->F, p->backward());
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kFeedForward) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
