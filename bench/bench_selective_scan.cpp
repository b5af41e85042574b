// Mamba's selective scan, forward and backward, over documents of 512 tokens; counted are two
// multiply-adds per state and token forward, four backward: the exponentials dominate.

#include <memory>

#include "autograd/kernels/reference/selective_scan.h"
#include "autograd/kernels/selective_scan.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

constexpr int64_t kStates = 16;
constexpr int64_t kDocument = 512;

struct Problem {
  explicit Problem(const RowsShape& s)
      : shape{s.cols, kStates},
        u(random_floats(s.rows * s.cols, 1)),
        dt(random_floats(s.rows * s.cols, 2)),
        channel(random_floats(s.cols, 3)),
        A_log(random_floats(s.cols * kStates, 4)),
        B(random_floats(s.rows * kStates, 5)),
        C(random_floats(s.rows * kStates, 6)),
        y(u.size()),
        grad(2 * u.size() + 2 * B.size() + A_log.size() + 2 * channel.size()) {
    for (int64_t t = 0; t <= s.rows; t += kDocument) documents.push_back(t);
    states.resize(static_cast<size_t>(kernels::selective_states(documents) * s.cols * kStates));
    workspace.resize(static_cast<size_t>(kernels::selective_workspace<float>(shape, s.rows)));
    kernels::selective_scan(shape, documents, forward());
  }
  [[nodiscard]] kernels::SelectiveInputs<float> inputs() const {
    return {u.data(), dt.data(), channel.data(), A_log.data(), B.data(), C.data(), channel.data()};
  }
  [[nodiscard]] kernels::SelectiveScan<float> forward() {
    return {inputs(), y.data(), states.data()};
  }
  [[nodiscard]] kernels::SelectiveScanBackward<float> backward() {
    float* next = grad.data();
    const auto take = [&](size_t size) {
      float* taken = next;
      next += size;
      return kernels::Gradient<float>{taken, false};
    };
    return {.in = inputs(),
            .states = states.data(),
            .workspace = workspace.data(),
            .grad_y = y.data(),
            .grad_u = take(u.size()),
            .grad_dt = take(u.size()),
            .grad_dt_bias = take(channel.size()),
            .grad_A_log = take(A_log.size()),
            .grad_B = take(B.size()),
            .grad_C = take(B.size()),
            .grad_D = take(channel.size())};
  }
  kernels::SelectiveShape shape;
  std::vector<float> u, dt, channel, A_log, B, C, y, grad, states, workspace;
  std::vector<int64_t> documents;
};

void add(const RowsShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const double flops = 4.0 * kStates * static_cast<double>(p->u.size());
  const std::string forward = fmt::format("selective_scan/forward/{}", shape.name);
  add_flops_benchmark(forward, flops, one_and_all_threads(),
                      [p] { kernels::selective_scan(p->shape, p->documents, p->forward()); });
  add_flops_benchmark(forward + "/reference", flops, {1}, [p] {
    kernels::reference::selective_scan(p->shape, p->documents, p->forward());
  });
  add_flops_benchmark(
      fmt::format("selective_scan/backward/{}", shape.name), 2 * flops, one_and_all_threads(),
      [p] { kernels::selective_scan_backward(p->shape, p->documents, p->backward()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kFeedForward) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
