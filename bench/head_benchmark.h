#pragma once
// What the benchmarks of the language-model head share: a problem for a kernel whose arguments are
// Args (LinearCrossEntropy, LinearConsistency, LinearDistillation), and its two benchmarks.

#include <memory>
#include <vector>

#include "bench/kernel_benchmark.h"

namespace sluice::bench {

template <class Args>
struct HeadProblem {
  /// `passes` rows of hidden for each token; logits of `chunk` tokens at a time.
  HeadProblem(const HeadShape& s, int64_t passes, int64_t chunk)
      : shape(s),
        rows(passes * s.tokens),
        hidden(random_floats(rows * s.D, 1)),
        weight(random_floats(s.V * s.D, 2)),
        logits(static_cast<size_t>(passes * chunk * s.V)),
        grad_hidden(hidden.size()),
        grad_weight(weight.size()) {
    for (int64_t n = 0; n < s.tokens; ++n) {
      targets.push_back(static_cast<int32_t>(
          uniform_below({.seed = 3}, 0, static_cast<uint64_t>(n), static_cast<uint64_t>(s.V))));
    }
  }
  /// Of one of its products: the logits, or one of the gradients.
  [[nodiscard]] double product_flops() const {
    return 2.0 * static_cast<double>(rows) * static_cast<double>(shape.D) *
           static_cast<double>(shape.V);
  }
  [[nodiscard]] Args args(bool wants_grad) {
    Args args;
    args.N = shape.tokens;
    args.D = shape.D;
    args.V = shape.V;
    args.hidden = hidden.data();
    args.weight = weight.data();
    args.targets = targets.data();
    args.divisor = static_cast<float>(shape.tokens);
    args.logits = logits.data();
    args.grad_hidden = wants_grad ? grad_hidden.data() : nullptr;
    args.grad_weight = wants_grad ? grad_weight.data() : nullptr;
    return args;
  }
  HeadShape shape;
  int64_t rows;
  std::vector<float> hidden, weight, logits, grad_hidden, grad_weight;
  std::vector<int32_t> targets;
};

/// NAME/loss_and_gradients/SHAPE, so many products, and NAME/loss/SHAPE, one; loss(wants_grad) calls the
/// kernel.
template <class Problem, class Loss>
void add_head_benchmarks(const std::string& name, const Problem& problem, const Loss& loss,
                         int products = 3) {
  for (const bool wants_grad : {true, false}) {
    add_flops_benchmark(fmt::format("{}/{}/{}", name, wants_grad ? "loss_and_gradients" : "loss",
                                    problem.shape.name),
                        (wants_grad ? products : 1) * problem.product_flops(), one_and_all_threads(),
                        [=] { benchmark::DoNotOptimize(loss(wants_grad)); });
  }
}

}  // namespace sluice::bench
