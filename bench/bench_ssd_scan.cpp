// Mamba-2's scan in chunks, forward and backward, on a batch of 4096 tokens; the work counted is that
// of the causal pairs and of the states.

#include <memory>

#include "autograd/kernels/reference/ssd_scan.h"
#include "autograd/kernels/ssd_scan.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  Problem(const SsdBenchShape& s, int64_t chunk)
      : shape{s.H, s.P, s.G, s.N, chunk, 0.0, 1e30},
        tokens(s.documents * s.tokens),
        width(s.H * s.P + 2 * s.G * s.N),
        xbc(random_floats(tokens * width, 1)),
        dt(random_floats(tokens * s.H, 2)),
        heads(random_floats(s.H, 3)),
        grad_y(random_floats(tokens * s.H * s.P, 4)),
        y(grad_y.size()),
        delta(dt.size()),
        grad_xbc(xbc.size()),
        grad_dt(dt.size()),
        grad_heads(3 * heads.size()) {
    for (int64_t d = 0; d <= s.documents; ++d) documents.push_back(d * s.tokens);
    const auto size = static_cast<size_t>(kernels::ssd_states(shape, documents) * s.H * s.P * s.N);
    states.resize(size);
    grad_states.resize(size);
    kernels::ssd_scan(shape, documents, forward());
    const auto chunks = static_cast<double>(s.tokens / chunk);
    const auto q = static_cast<double>(chunk);
    flops = 2.0 * static_cast<double>(s.documents) *
            (chunks * q * (q + 1) / 2 * static_cast<double>(s.G * s.N + s.H * s.P) +
             2 * (chunks - 1) * q * static_cast<double>(s.H * s.P * s.N));
  }
  [[nodiscard]] kernels::SsdInputs<float> inputs() const {
    const float* B = xbc.data() + shape.H * shape.P;
    return {xbc.data(), B, B + shape.G * shape.N, width, heads.data(), heads.data()};
  }
  [[nodiscard]] kernels::SsdScan<float> forward() {
    return {.in = inputs(),
            .dt = dt.data(),
            .dt_bias = heads.data(),
            .y = y.data(),
            .delta = delta.data(),
            .states = states.data()};
  }
  [[nodiscard]] kernels::SsdScanBackward<float> backward() {
    float* B = grad_xbc.data() + shape.H * shape.P;
    float* head = grad_heads.data();
    return {.in = inputs(),
            .delta = delta.data(),
            .states = states.data(),
            .grad_states = grad_states.data(),
            .grad_y = grad_y.data(),
            .grad_x = {grad_xbc.data(), false},
            .grad_B = {B, false},
            .grad_C = {B + shape.G * shape.N, false},
            .grad_dt = {grad_dt.data(), false},
            .grad_dt_bias = {head, false},
            .grad_A_log = {head + shape.H, false},
            .grad_D = {head + 2 * shape.H, false}};
  }
  kernels::SsdShape shape;
  int64_t tokens;
  int64_t width;
  std::vector<float> xbc, dt, heads, grad_y, y, delta, grad_xbc, grad_dt, grad_heads, states,
      grad_states;
  std::vector<int64_t> documents;
  double flops;
};

void add(const SsdBenchShape& shape, int64_t chunk) {
  const auto p = std::make_shared<Problem>(shape, chunk);
  const std::string forward = fmt::format("ssd_scan/forward/{}/chunk_{}", shape.name, chunk);
  const std::string backward = fmt::format("ssd_scan/backward/{}/chunk_{}", shape.name, chunk);
  add_flops_benchmark(forward, p->flops, one_and_all_threads(),
                      [p] { kernels::ssd_scan(p->shape, p->documents, p->forward()); });
  add_flops_benchmark(forward + "/reference", p->flops, {1},
                      [p] { kernels::reference::ssd_scan(p->shape, p->documents, p->forward()); });
  add_flops_benchmark(backward, 2 * p->flops, one_and_all_threads(),
                      [p] { kernels::ssd_scan_backward(p->shape, p->documents, p->backward()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kSsd) {
    for (const int64_t chunk : {64, 128, 256}) sluice::bench::add(shape, chunk);
  }
  return sluice::bench::run_benchmarks(argc, argv);
}
