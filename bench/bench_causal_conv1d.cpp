// Causal depthwise convolution with SiLU, forward and backward, over documents of 512 tokens.

#include <memory>

#include "autograd/kernels/causal_conv1d.h"
#include "autograd/kernels/reference/causal_conv1d.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

constexpr int64_t kTaps = 4;
constexpr int64_t kDocument = 512;

struct Problem {
  explicit Problem(const RowsShape& s)
      : shape{s.cols, kTaps, true},
        x(random_floats(s.rows * s.cols, 1)),
        weight(random_floats(s.cols * kTaps, 2)),
        bias(random_floats(s.cols, 3)),
        grad_y(random_floats(s.rows * s.cols, 4)),
        y(x.size()),
        grad_x(x.size()),
        grad_weight(weight.size()),
        grad_bias(bias.size()) {
    for (int64_t t = 0; t <= s.rows; t += kDocument) documents.push_back(t);
  }
  [[nodiscard]] kernels::CausalConv1d<float> forward() {
    return {x.data(), weight.data(), bias.data(), y.data()};
  }
  [[nodiscard]] kernels::CausalConv1dBackward<float> backward() {
    return {x.data(),
            weight.data(),
            bias.data(),
            grad_y.data(),
            {grad_x.data(), false},
            {grad_weight.data(), true},
            {grad_bias.data(), true}};
  }
  kernels::CausalConv1dShape shape;
  std::vector<float> x, weight, bias, grad_y, y, grad_x, grad_weight, grad_bias;
  std::vector<int64_t> documents;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double pass = 4.0 * static_cast<double>(p->x.size());
  const std::string forward = fmt::format("causal_conv1d/forward/{}", shape.name);
  const std::string backward = fmt::format("causal_conv1d/backward/{}", shape.name);
  add_bytes_benchmark(forward, 2 * pass,
                      [p] { kernels::causal_conv1d(p->shape, p->documents, p->forward()); });
  add_reference_benchmark(forward, 2 * pass, [p] {
    kernels::reference::causal_conv1d(p->shape, p->documents, p->forward());
  });
  add_bytes_benchmark(backward, 3 * pass, [p] {
    kernels::causal_conv1d_backward(p->shape, p->documents, p->backward());
  });
  add_reference_benchmark(backward, 3 * pass, [p] {
    std::vector<float> slope(p->x.size());
    kernels::reference::causal_conv1d_backward(p->shape, p->documents, p->backward(), slope.data());
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kFeedForward) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
