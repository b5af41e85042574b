// The language-model head with its loss: logits, softmax and both gradients, three products in all.
// Beside it the logits' product alone.

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/linear_cross_entropy.h"
#include "bench/head_benchmark.h"

namespace sluice::bench {
namespace {

struct Problem : HeadProblem<kernels::LinearCrossEntropy<float>> {
  explicit Problem(const HeadShape& s)
      : HeadProblem(s, 1, kernels::linear_cross_entropy_chunk(s.V)),
        token_loss(static_cast<size_t>(s.tokens)) {}
  [[nodiscard]] double loss(bool wants_grad) {
    auto with_losses = args(wants_grad);
    with_losses.token_loss = token_loss.data();
    return kernels::linear_cross_entropy(with_losses);
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
  std::vector<float> token_loss;
};

void add(const HeadShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  add_head_benchmarks("linear_cross_entropy", *p,
                      [p](bool wants_grad) { return p->loss(wants_grad); });
  add_flops_benchmark(fmt::format("linear_cross_entropy/logits_only/{}", shape.name),
                      p->product_flops(), one_and_all_threads(), [p] { p->logits_only(); });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  for (const auto& shape : sluice::bench::kHeads) sluice::bench::add(shape);
  return sluice::bench::run_benchmarks(argc, argv);
}
