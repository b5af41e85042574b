#include "optim/clip.h"

#include <algorithm>
#include <cmath>

#include "autograd/kernels/reduce.h"

namespace sluice {
namespace {

double sum_of_squares(const Tensor& grad) {
  return dispatch_float(grad.dtype(), [&]<class T>() {
    return kernels::sum_of_squares<T>(grad.numel(), grad.data<T>());
  });
}

}  // namespace

GradientNorm gradient_norm(std::span<Parameter* const> parameters, Communicator& communicator) {
  GradientNorm result;
  double replicated = 0.0;
  double sharded = 0.0;
  for (const Parameter* parameter : parameters) {
    if (!parameter->trainable || parameter->grad_is_zero || !parameter->grad.has_memory()) continue;
    const double squares = sum_of_squares(parameter->grad);
    if (!std::isfinite(squares) && result.first_non_finite == nullptr) {
      result.first_non_finite = parameter;
    }
    (parameter->placement == Placement::replicated ? replicated : sharded) += squares;
  }
  communicator.sum(std::span<double>(&sharded, 1));
  result.value = std::sqrt(replicated + sharded);
  return result;
}

double clip_scale(double norm, std::optional<double> max_norm) {
  // Keeps the quotient defined when all gradients are zero.
  constexpr double kFloor = 1e-6;
  SLUICE_INTERNAL_CHECK(std::isfinite(norm), "a gradient of norm {} cannot be clipped", norm);
  return max_norm ? std::min(1.0, *max_norm / (norm + kFloor)) : 1.0;
}

}  // namespace sluice
