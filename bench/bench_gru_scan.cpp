// Gated recurrent units of several experts, documents side by side: bound by a product per token.

#include <memory>

#include "autograd/kernels/gru_scan.h"
#include "autograd/kernels/reference/gru_scan.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  Problem(int64_t experts, int64_t documents, int64_t tokens, int64_t width)
      : shape{experts, width} {
    for (int64_t e = 0; e <= experts; ++e) {
      offsets.push_back(static_cast<int32_t>(e * documents * tokens));
    }
    for (int64_t row = 0; row <= offsets.back(); row += tokens) segments.push_back(row);
    const int64_t rows = offsets.back();
    a = random_floats(rows * 3 * width, 1);
    weight = random_floats(experts * 3 * width * width, 2);
    bias = random_floats(experts * 4 * width, 3);
    h.resize(static_cast<size_t>(rows * width));
    gates.resize(static_cast<size_t>(rows * 4 * width));
    workspace.resize(static_cast<size_t>(kernels::gru_workspace(shape, rows)));
    grad_a.resize(a.size());
    grad_weight.resize(weight.size());
    grad_bias.resize(bias.size());
    flops = 6.0 * static_cast<double>(rows * width * width);
  }
  [[nodiscard]] kernels::GruInputs<float> inputs() const {
    return {a.data(), weight.data(), bias.data(), offsets.data()};
  }
  [[nodiscard]] kernels::GruScan<float> forward() {
    return {.in = inputs(), .h = h.data(), .gates = gates.data()};
  }
  [[nodiscard]] kernels::GruScanBackward<float> backward() {
    return {.in = inputs(),
            .h = h.data(),
            .gates = gates.data(),
            .workspace = workspace.data(),
            .grad_h = h.data(),
            .grad_a = {grad_a.data(), false},
            .grad_weight = {grad_weight.data(), false},
            .grad_bias = {grad_bias.data(), false}};
  }
  kernels::GruShape shape;
  std::vector<int32_t> offsets;
  std::vector<int64_t> segments;
  std::vector<float> a, weight, bias, h, gates, workspace, grad_a, grad_weight, grad_bias;
  double flops = 0.0;
};

void add(const std::string& name, int64_t experts, int64_t documents, int64_t tokens,
         int64_t width) {
  const auto p = std::make_shared<Problem>(experts, documents, tokens, width);
  add_flops_benchmark("gru_scan/forward/" + name, p->flops, one_and_all_threads(),
                      [p] { kernels::gru_scan<float>(p->shape, p->segments, p->forward()); });
  add_flops_benchmark("gru_scan/backward/" + name, 2 * p->flops, one_and_all_threads(), [p] {
    kernels::gru_scan_backward<float>(p->shape, p->segments, p->backward());
  });
  add_flops_benchmark("gru_scan/reference_forward/" + name, p->flops, {1}, [p] {
    kernels::reference::gru_scan<float>(p->shape, p->segments, p->forward());
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add("experts_4_documents_8", 4, 8, 64, 128);
  sluice::bench::add("experts_2_documents_1", 2, 1, 512, 256);
  return sluice::bench::run_benchmarks(argc, argv);
}
