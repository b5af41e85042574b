// Causal attention, forward and backward. The work counted is that of the allowed pairs only: 2
// products forward, 5 backward, so masked parts of tiles and scores computed twice lower the rate.

#include <memory>

#include "autograd/kernels/causal_attention.h"
#include "autograd/kernels/reference/causal_attention.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const AttentionBenchShape& s)
      : shape{s.H, s.K, s.P, 1.0 / static_cast<double>(s.P)},
        tokens(s.documents * s.tokens),
        q(random_floats(tokens * s.H * s.P, 1)),
        k(random_floats(tokens * s.K * s.P, 2)),
        v(random_floats(tokens * s.K * s.P, 3)),
        grad_o(random_floats(tokens * s.H * s.P, 4)),
        o(q.size()),
        lse(static_cast<size_t>(tokens * s.H)),
        grad_q(q.size()),
        grad_k(k.size()),
        grad_v(v.size()),
        product_flops(static_cast<double>(s.documents * s.tokens * (s.tokens + 1) * s.H * s.P)) {
    for (int64_t d = 0; d < s.documents; ++d) {
      segments.push_back({d * s.tokens, (d + 1) * s.tokens, d * s.tokens, (d + 1) * s.tokens});
    }
    kernels::causal_attention(shape, segments, forward());
  }
  [[nodiscard]] kernels::AttentionForward<float> forward() {
    return {q.data(), k.data(), v.data(), o.data(), lse.data()};
  }
  [[nodiscard]] kernels::AttentionBackward<float> backward() {
    return {q.data(),
            k.data(),
            v.data(),
            o.data(),
            lse.data(),
            grad_o.data(),
            {grad_q.data(), false},
            {grad_k.data(), false},
            {grad_v.data(), false}};
  }
  kernels::AttentionShape shape;
  int64_t tokens;
  std::vector<float> q, k, v, grad_o, o, lse, grad_q, grad_k, grad_v;
  double product_flops;  // of one product over the allowed pairs
  std::vector<kernels::AttentionSegment> segments;
};

void add(const AttentionBenchShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const std::string forward = fmt::format("causal_attention/forward/{}", shape.name);
  add_flops_benchmark(forward, 2 * p->product_flops, one_and_all_threads(),
                      [p] { kernels::causal_attention(p->shape, p->segments, p->forward()); });
  add_flops_benchmark(forward + "/reference", 2 * p->product_flops, {1}, [p] {
    kernels::reference::causal_attention(p->shape, p->segments, p->forward());
  });
  add_flops_benchmark(fmt::format("causal_attention/backward/{}", shape.name), 5 * p->product_flops,
                      one_and_all_threads(), [p] {
                        kernels::causal_attention_backward(p->shape, p->segments, p->backward());
                      });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kAttention) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
