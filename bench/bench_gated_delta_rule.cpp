// Memories of matrices, forward and backward, in chunks and as the recurrence; and this project's own
// attention of the same heads over the same tokens. The work counted is that of the products which the
// chunked form needs (ops/gated_delta_rule.cpp counts alike), so that all three have the same time for
// the same rate.

#include <memory>

#include "autograd/kernels/causal_attention.h"
#include "autograd/kernels/gated_delta_rule.h"
#include "autograd/kernels/reference/gated_delta_rule.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

using kernels::MemoryRule;

struct Problem {
  Problem(const MemoryBenchShape& s, MemoryRule rule)
      : shape{rule, s.H, s.P, s.P, 1.0 / static_cast<double>(s.P)},
        tokens(s.documents * s.tokens),
        q(random_floats(tokens * s.H * s.P, 1)),
        k(random_floats(tokens * s.H * s.P, 2)),
        v(random_floats(tokens * s.H * s.P, 3)),
        grad_o(random_floats(tokens * s.H * s.P, 4)),
        log_decay(random_floats(tokens * s.H, 5)),
        beta(random_floats(tokens * s.H, 6)),
        o(q.size()),
        written(q.size()),
        lse(log_decay.size()),
        grad_q(q.size()),
        grad_k(q.size()),
        grad_v(q.size()),
        grad_log_decay(log_decay.size()),
        grad_beta(beta.size()) {
    for (float& key : k) key /= static_cast<float>(s.P);
    for (float& g : log_decay) g = -0.1F * std::abs(g);
    for (float& b : beta) b = std::min(1.0F, std::abs(b));
    int64_t saved = 0;
    for (int64_t d = 0; d < s.documents; ++d) {
      segments.push_back({d * s.tokens, (d + 1) * s.tokens, saved});
      attended.push_back({d * s.tokens, (d + 1) * s.tokens, d * s.tokens, (d + 1) * s.tokens});
      saved += kernels::saved_memories(s.tokens, shape.chunk);
    }
    states.resize(static_cast<size_t>(saved * s.H * s.P * s.P));
    kernels::gated_delta_rule(shape, segments, forward());
    const auto n = static_cast<double>(std::min(shape.chunk, s.tokens));
    const auto width = static_cast<double>(s.P);
    const double of_token = rule == MemoryRule::delta ? 2 * (n + 1) * width + 3 * width * width
                                                      : (n + 1) * width + 2 * width * width;
    flops = 2.0 * static_cast<double>(tokens * s.H) * of_token;
  }
  [[nodiscard]] kernels::MemoryForward<float> forward() {
    return {q.data(),    k.data(), v.data(),       log_decay.data(),
            beta.data(), o.data(), written.data(), states.data()};
  }
  [[nodiscard]] kernels::MemoryBackward<float> backward() {
    return {q.data(),
            k.data(),
            shape.rule == MemoryRule::delta ? written.data() : v.data(),
            log_decay.data(),
            beta.data(),
            states.data(),
            grad_o.data(),
            {grad_q.data(), false},
            {grad_k.data(), false},
            {grad_v.data(), false},
            {grad_log_decay.data(), false},
            {grad_beta.data(), false}};
  }
  [[nodiscard]] kernels::AttentionShape attention() const {
    return {shape.H, shape.H, shape.K, shape.scale};
  }
  kernels::MemoryShape shape;
  int64_t tokens;
  std::vector<float> q, k, v, grad_o, log_decay, beta, o, written, states, lse, grad_q, grad_k,
      grad_v, grad_log_decay, grad_beta;
  double flops;
  std::vector<kernels::MemorySegment> segments;
  std::vector<kernels::AttentionSegment> attended;
};

void add(const MemoryBenchShape& shape, MemoryRule rule) {
  const auto p = std::make_shared<Problem>(shape, rule);
  const std::string name = rule == MemoryRule::delta ? "gated_delta_rule" : "linear_attention_scan";
  const std::string forward = fmt::format("{}/forward/{}", name, shape.name);
  add_flops_benchmark(forward, p->flops, one_and_all_threads(),
                      [p] { kernels::gated_delta_rule(p->shape, p->segments, p->forward()); });
  add_flops_benchmark(forward + "/reference", p->flops, {1}, [p] {
    kernels::reference::gated_delta_rule(p->shape, p->segments, p->forward());
  });
  add_flops_benchmark(
      fmt::format("{}/backward/{}", name, shape.name), 2 * p->flops, one_and_all_threads(),
      [p] { kernels::gated_delta_rule_backward(p->shape, p->segments, p->backward()); });
}

/// Attention in place of the memory, with the memory's flops as its work: compare the times.
void add_attention(const MemoryBenchShape& shape) {
  const auto p = std::make_shared<Problem>(shape, MemoryRule::delta);
  add_flops_benchmark(fmt::format("attention_instead/forward/{}", shape.name), p->flops,
                      one_and_all_threads(), [p] {
                        kernels::causal_attention<float>(
                            p->attention(), p->attended,
                            {p->q.data(), p->k.data(), p->v.data(), p->o.data(), p->lse.data()});
                      });
  add_flops_benchmark(fmt::format("attention_instead/backward/{}", shape.name), 2 * p->flops,
                      one_and_all_threads(), [p] {
                        kernels::causal_attention_backward<float>(p->attention(), p->attended,
                                                                  {p->q.data(),
                                                                   p->k.data(),
                                                                   p->v.data(),
                                                                   p->o.data(),
                                                                   p->lse.data(),
                                                                   p->grad_o.data(),
                                                                   {p->grad_q.data(), false},
                                                                   {p->grad_k.data(), false},
                                                                   {p->grad_v.data(), false}});
                      });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  using namespace sluice;
  for (const auto& shape : bench::kMemories) {
    bench::add(shape, kernels::MemoryRule::delta);
    bench::add(shape, kernels::MemoryRule::sum);
    bench::add_attention(shape);
  }
  return bench::run_benchmarks(argc, argv);
}
