#pragma once
// How far a student's predictions are from a teacher's, through the language-model heads of both,
// chunked so that the logits of a whole batch are never held.

#include "autograd/core/tape.h"

namespace sluice {

/// What the student is compared with: constants, no gradient goes to them.
struct TeacherHead {
  Tensor hidden;  // [N, C]
  Tensor weight;  // [V, C]
};

struct LinearDistillationOptions {
  double temperature = 1.0;  // tau
  double divisor = 1.0;      // the valid tokens of the global batch
};

/// hidden [N, D], weight [V, D], targets [N] i32, negative where there is no loss. One element:
///   tau^2 / divisor sum_n KL(q_n || p_n),  p, q = softmax of the student's and teacher's logits / tau
/// with gradients to hidden and weight; 0, with a gradient of 0, where both have the same logits. The
/// forward computes the gradients already, when wanted; the backward only scales them. Throws
/// ShapeError, DTypeError.
[[nodiscard]] Tensor linear_distillation(Tape& tape, const Tensor& hidden, const Tensor& weight,
                                         const TeacherHead& teacher, const Tensor& targets,
                                         const LinearDistillationOptions& options);

}  // namespace sluice
