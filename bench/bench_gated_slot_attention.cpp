// Gated slot attention, forward and backward, of 64 slots a head: a recurrence over (slots, 2 P) numbers
// that stay in cache.

#include <memory>

#include "autograd/kernels/gated_slot_attention.h"
#include "autograd/kernels/reference/gated_slot_attention.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

constexpr int64_t kSlots = 64;

struct Problem {
  explicit Problem(const AttentionBenchShape& s)
      : shape{s.K, kSlots, s.P, s.P, 0.125},
        tokens(s.documents * s.tokens),
        q(random_floats(tokens * s.K * s.P, 1)),
        k(random_floats(tokens * s.K * s.P, 2)),
        v(random_floats(tokens * s.K * s.P, 3)),
        log_gate(random_floats(tokens * s.K * kSlots, 4)),
        grad_o(random_floats(tokens * s.K * s.P, 5)),
        o(q.size()),
        states(static_cast<size_t>(tokens / kernels::kSlotSegment * s.K * shape.memory())),
        grad_q(q.size()),
        grad_k(k.size()),
        grad_v(v.size()),
        grad_log_gate(log_gate.size()),
        flops(4.0 * static_cast<double>(tokens * s.K * shape.memory())) {
    for (float& g : log_gate) g = -0.05F - 0.05F * g * g;
    int64_t saved = 0;
    for (int64_t d = 0; d < s.documents; ++d) {
      sequences.push_back({d * s.tokens, (d + 1) * s.tokens, saved});
      saved += kernels::saved_slot_memories(s.tokens);
    }
    kernels::gated_slot_attention(shape, sequences, forward());
  }
  [[nodiscard]] kernels::GatedSlotForward<float> forward() {
    return {q.data(), k.data(), v.data(), log_gate.data(), o.data(), states.data()};
  }
  [[nodiscard]] kernels::GatedSlotBackward<float> backward() {
    return {q.data(),
            k.data(),
            v.data(),
            log_gate.data(),
            states.data(),
            grad_o.data(),
            {grad_q.data(), false},
            {grad_k.data(), false},
            {grad_v.data(), false},
            {grad_log_gate.data(), false}};
  }
  kernels::GatedSlotShape shape;
  int64_t tokens;
  std::vector<float> q, k, v, log_gate, grad_o, o, states, grad_q, grad_k, grad_v, grad_log_gate;
  double flops;  // of the forward
  std::vector<kernels::GatedSlotSequence> sequences;
};

void add(const AttentionBenchShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const std::string forward = fmt::format("gated_slot_attention/forward/{}", shape.name);
  add_flops_benchmark(forward, p->flops, one_and_all_threads(),
                      [p] { kernels::gated_slot_attention(p->shape, p->sequences, p->forward()); });
  add_flops_benchmark(forward + "/reference", p->flops, {1}, [p] {
    kernels::reference::gated_slot_attention(p->shape, p->sequences, p->forward());
  });
  add_flops_benchmark(
      fmt::format("gated_slot_attention/backward/{}", shape.name), 3 * p->flops,
      one_and_all_threads(),
      [p] { kernels::gated_slot_attention_backward(p->shape, p->sequences, p->backward()); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add(sluice::bench::kAttention[2]);
  return sluice::bench::run_benchmarks(argc, argv);
}
