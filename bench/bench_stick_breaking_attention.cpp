// Stick-breaking attention, forward and backward, beside softmax attention of the same shapes in
// bench_causal_attention. The work counted is that of all causal pairs, so sticks that are used up
// early raise the rate above what the processor does.

#include <memory>

#include "autograd/kernels/reference/stick_breaking_attention.h"
#include "autograd/kernels/stick_breaking_attention.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const AttentionBenchShape& s)
      : shape{s.H, s.K, s.P, 1.0 / static_cast<double>(s.P)},
        q(random_floats(s.documents * s.tokens * s.H * s.P, 1)),
        k(random_floats(s.documents * s.tokens * s.K * s.P, 2)),
        v(random_floats(s.documents * s.tokens * s.K * s.P, 3)),
        grad_o(random_floats(s.documents * s.tokens * s.H * s.P, 4)),
        o(q.size()),
        grad_q(q.size()),
        grad_k(k.size()),
        grad_v(v.size()),
        product_flops(static_cast<double>(s.documents * s.tokens * (s.tokens + 1) * s.H * s.P)) {
    for (int64_t d = 0; d < s.documents; ++d) {
      segments.push_back({d * s.tokens, (d + 1) * s.tokens, d * s.tokens, (d + 1) * s.tokens});
    }
    kernels::stick_breaking_attention(shape, segments, forward());
  }
  [[nodiscard]] kernels::AttentionForward<float> forward() {
    return {q.data(), k.data(), v.data(), o.data()};
  }
  [[nodiscard]] kernels::AttentionBackward<float> backward() {
    return {q.data(),
            k.data(),
            v.data(),
            o.data(),
            nullptr,
            grad_o.data(),
            {grad_q.data(), false},
            {grad_k.data(), false},
            {grad_v.data(), false}};
  }
  kernels::AttentionShape shape;
  std::vector<float> q, k, v, grad_o, o, grad_q, grad_k, grad_v;
  double product_flops;  // of one product over the causal pairs
  std::vector<kernels::AttentionSegment> segments;
};

void add(const AttentionBenchShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const std::string forward = fmt::format("stick_breaking_attention/forward/{}", shape.name);
  add_flops_benchmark(forward, 2 * p->product_flops, one_and_all_threads(), [p] {
    kernels::stick_breaking_attention(p->shape, p->segments, p->forward());
  });
  add_flops_benchmark(forward + "/reference", 2 * p->product_flops, {1}, [p] {
    kernels::reference::stick_breaking_attention(p->shape, p->segments, p->forward());
  });
  add_flops_benchmark(
      fmt::format("stick_breaking_attention/backward/{}", shape.name), 5 * p->product_flops,
      one_and_all_threads(),
      [p] { kernels::stick_breaking_attention_backward(p->shape, p->segments, p->backward()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kAttention) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
