// The divergence between two passes over the same tokens, through the language-model head: logits of
// both, and both gradients, three products of 2 N rows in all.

#include "autograd/kernels/linear_consistency.h"
#include "bench/head_benchmark.h"

namespace sluice::bench {
namespace {

using Problem = HeadProblem<kernels::LinearConsistency<float>>;

void add(const HeadShape& shape) {
  const auto p = std::make_shared<Problem>(shape, 2, kernels::linear_consistency_chunk(shape.V));
  add_head_benchmarks("linear_consistency", *p, [p](bool wants_grad) {
    return kernels::linear_consistency(p->args(wants_grad));
  });
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add(sluice::bench::kHeads[0]);
  return sluice::bench::run_benchmarks(argc, argv);
}
