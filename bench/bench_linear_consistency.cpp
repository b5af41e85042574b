// The divergence between two passes over the same tokens, through the language-model head: logits of
// both, and both gradients, three products of 2 N rows in all.

#include <memory>

#include "autograd/kernels/linear_consistency.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const HeadShape& s)
      : shape(s),
        hidden(random_floats(2 * s.tokens * s.D, 1)),
        weight(random_floats(s.V * s.D, 2)),
        targets(static_cast<size_t>(s.tokens), 0),
        logits(static_cast<size_t>(2 * kernels::linear_consistency_chunk(s.V) * s.V)),
        grad_hidden(hidden.size()),
        grad_weight(weight.size()) {}
  [[nodiscard]] double product_flops() const {
    return 2.0 * static_cast<double>(2 * shape.tokens) * static_cast<double>(shape.D) *
           static_cast<double>(shape.V);
  }
  [[nodiscard]] kernels::LinearConsistency<float> args(bool wants_grad) {
    return {.N = shape.tokens,
            .D = shape.D,
            .V = shape.V,
            .hidden = hidden.data(),
            .weight = weight.data(),
            .targets = targets.data(),
            .divisor = static_cast<float>(shape.tokens),
            .logits = logits.data(),
            .grad_hidden = wants_grad ? grad_hidden.data() : nullptr,
            .grad_weight = wants_grad ? grad_weight.data() : nullptr};
  }
  HeadShape shape;
  std::vector<float> hidden, weight;
  std::vector<int32_t> targets;
  std::vector<float> logits, grad_hidden, grad_weight;
};

void add(const HeadShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const auto name = [&](const char* what) {
    return fmt::format("linear_consistency/{}/{}", what, shape.name);
  };
  add_flops_benchmark(
      name("loss_and_gradients"), 3 * p->product_flops(), one_and_all_threads(),
      [p] { benchmark::DoNotOptimize(kernels::linear_consistency(p->args(true))); });
  add_flops_benchmark(name("loss"), p->product_flops(), one_and_all_threads(), [p] {
    benchmark::DoNotOptimize(kernels::linear_consistency(p->args(false)));
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add(sluice::bench::kHeads[0]);
  return sluice::bench::run_benchmarks(argc, argv);
}
