// The divergence of a student from a teacher of its size, through a language-model head each: logits of
// both, and the student's two gradients, two products of 2 N rows in all.

#include "autograd/kernels/linear_distillation.h"
#include "bench/head_benchmark.h"

namespace sluice::bench {
namespace {

/// The student's hidden states, then the teacher's.
struct Problem : HeadProblem<kernels::LinearDistillation<float>> {
  explicit Problem(const HeadShape& s)
      : HeadProblem(s, 2, kernels::linear_distillation_chunk(s.V)),
        teacher_weight(random_floats(s.V * s.D, 4)) {}
  [[nodiscard]] kernels::LinearDistillation<float> pair(bool wants_grad) {
    auto result = args(wants_grad);
    result.C = shape.D;
    result.teacher_hidden = hidden.data() + shape.tokens * shape.D;
    result.teacher_weight = teacher_weight.data();
    return result;
  }
  std::vector<float> teacher_weight;
};

void add(const HeadShape& shape) {
  const auto p = std::make_shared<Problem>(shape);
  add_head_benchmarks(
      "linear_distillation", *p,
      [p](bool wants_grad) { return kernels::linear_distillation(p->pair(wants_grad)); }, 2);
}

}  // namespace
}  // namespace sluice::bench

int main(int argc, char** argv) {
  sluice::bench::add(sluice::bench::kHeads[0]);
  return sluice::bench::run_benchmarks(argc, argv);
}
