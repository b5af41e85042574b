#pragma once
// Parameter: a named tensor that training changes, with its gradient.

#include <string>

#include "autograd/core/tensor.h"

namespace sluice {

/// What a parameter is; optimizer groups and weight decay go by it.
enum class ParameterKind : uint8_t { matrix, router, embedding, norm, bias };

/// What the first axis of a stack of parameters runs over.
enum class Stack : uint8_t { none, routed_experts, modalities };

/// Where a parameter lives when there are several ranks: on each, or every rank its own experts.
enum class Placement : uint8_t { replicated, sharded_by_expert };

struct Parameter {
  /// Stable dotted path, the name in checkpoints: "layers.3.experts.w_gate".
  std::string name;
  ParameterKind kind = ParameterKind::matrix;
  Stack stack = Stack::none;
  Placement placement = Placement::replicated;
  /// A frozen parameter has no gradient and no moments.
  bool trainable = true;
  /// Set where more is done with the matrix than multiplying by it or looking rows up in it.
  bool stays_f32 = false;

  Tensor value;
  /// Shape and dtype of `value`; undefined while frozen or before the first zero_grad.
  Tensor grad;
  /// True after zero_grad until something was accumulated: the contents of `grad` are then
  /// meaningless and count as zero, which saves a pass over all gradients per step.
  bool grad_is_zero = true;

  /// Rounds a matrix or an embedding, in f32, to bf16 for inference: half the memory of `pool`. Leaves
  /// other kinds, and parameters that stay in f32, as they are.
  void store_in_bf16(Pool& pool);

  /// Makes the gradient zero, allocating it if need be.
  void zero_grad(Pool& pool);
  /// Writes the zeros that grad_is_zero stands for, so that `grad` can be read.
  void materialise_grad();
};

}  // namespace sluice
