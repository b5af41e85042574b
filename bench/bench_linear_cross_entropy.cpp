// The language-model head with its loss: logits, softmax and both gradients, three products in all.
// Beside it the logits' product alone.

#include <memory>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/linear_cross_entropy.h"
#include "bench/kernel_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem {
  explicit Problem(const HeadShape& s)
      : shape(s),
        hidden(random_floats(s.tokens * s.D, 1)),
        weight(random_floats(s.V * s.D, 2)),
        logits(static_cast<size_t>(kernels::linear_cross_entropy_chunk(s.V) * s.V)),
        token_loss(static_cast<size_t>(s.tokens)),
        grad_hidden(hidden.size()),
        grad_weight(weight.size()) {
    for (int64_t n = 0; n < s.tokens; ++n) {
      targets.push_back(static_cast<int32_t>(
          uniform_below({.seed = 3}, 0, static_cast<uint64_t>(n), static_cast<uint64_t>(s.V))));
    }
  }
  [[nodiscard]] double product_flops() const {
    return 2.0 * static_cast<double>(shape.tokens) * static_cast<double>(shape.D) *
           static_cast<double>(shape.V);
  }
  [[nodiscard]] kernels::LinearCrossEntropy<float> args(bool wants_grad) {
    return {.N = shape.tokens,
            .D = shape.D,
            .V = shape.V,
            .hidden = hidden.data(),
            .weight = weight.data(),
            .targets = targets.data(),
            .divisor = static_cast<float>(shape.tokens),
            .logits = logits.data(),
            .token_loss = token_loss.data(),
            .grad_hidden = wants_grad ? grad_hidden.data() : nullptr,
            .grad_weight = wants_grad ? grad_weight.data() : nullptr};
  }
  /// The logits of one chunk after the other, and nothing else.
  void logits_only() {
    const int64_t chunk = kernels::linear_cross_entropy_chunk(shape.V);
    for (int64_t n = 0; n < shape.tokens; n += chunk) {
      kernels::gemm<float>({std::min(chunk, shape.tokens - n), shape.V, shape.D},
                           {hidden.data() + n * shape.D, shape.D}, {weight.data(), shape.D, true},
                           {logits.data(), shape.V});
    }
  }
  HeadShape shape;
  std::vector<float> hidden, weight, logits, token_loss, grad_hidden, grad_weight;
  std::vector<int32_t> targets;
};

void add(const HeadShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  const auto threads = one_and_all_threads();
  const auto name = [&](const char* what) {
    return fmt::format("linear_cross_entropy/{}/{}", what, shape.name);
  };
  add_flops_benchmark(name("loss_and_gradients"), 3 * p->product_flops(), threads, [p] {
    benchmark::DoNotOptimize(kernels::linear_cross_entropy(p->args(true)));
  });
  add_flops_benchmark(name("loss"), p->product_flops(), threads, [p] {
    benchmark::DoNotOptimize(kernels::linear_cross_entropy(p->args(false)));
  });
  add_flops_benchmark(name("logits_only"), p->product_flops(), threads, [p] { p->logits_only(); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kHeads) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
