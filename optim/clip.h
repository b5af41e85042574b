#pragma once
// The norm of the whole gradient, and clipping by it (Pascanu, Mikolov and Bengio 2013).
//
//   const GradientNorm norm = gradient_norm(parameters, communicator);
//   optimizer.step(progress, clip_scale(norm.value, 1.0));
//
// Gradients are not rewritten: the factor travels to the optimizer's own pass.

#include <optional>
#include <span>

#include "autograd/core/communicator.h"
#include "autograd/core/parameter.h"

namespace sluice {

struct GradientNorm {
  /// sqrt(sum g^2) over all trainable parameters of all ranks. Squares are added in f64 over fixed
  /// blocks, parameters in the order given: the same bits for any number of threads.
  double value = 0.0;
  /// The first parameter of this rank with a NaN or an infinity in its gradient; null when there is
  /// none.
  const Parameter* first_non_finite = nullptr;
};

/// Replicated parameters count once, shards are summed over ranks. A gradient that is still zero
/// (Parameter::grad_is_zero) is not read.
[[nodiscard]] GradientNorm gradient_norm(std::span<Parameter* const> parameters,
                                         Communicator& communicator);

/// min(1, max_norm / (norm + 1e-6)); 1 without a max_norm. The norm must be finite.
[[nodiscard]] double clip_scale(double norm, std::optional<double> max_norm);

}  // namespace sluice
