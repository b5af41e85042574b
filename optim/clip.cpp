#include "optim/clip.h"

#include <algorithm>
#include <cmath>

#include "autograd/kernels/reduce.h"
#include "autograd/support/arena.h"

namespace sluice {
namespace {

/// True when the gradient is to be read.
bool counts(const Parameter& parameter) {
  return parameter.trainable && !parameter.grad_is_zero && parameter.grad.has_memory();
}

/// squares[i] = sum of squares of the i-th gradient, of those that count and are in T.
template <class T>
void add_squares(std::span<Parameter* const> parameters, double* squares) {
  const auto count = std::ssize(parameters);
  ArenaScope scratch(thread_arena());
  auto* grads = scratch.allocate<std::span<const T>>(count);
  auto* index = scratch.allocate<size_t>(count);
  auto* sums = scratch.allocate<double>(count);
  size_t used = 0;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter& parameter = *parameters[i];
    if (!counts(parameter) || parameter.grad.dtype() != dtype_of<T>) continue;
    grads[used] = parameter.grad.span<T>();
    index[used++] = i;
  }
  kernels::sums_of_squares<T>(std::span(grads, used), std::span(sums, used));
  for (size_t k = 0; k < used; ++k) squares[index[k]] = sums[k];
}

}  // namespace

GradientNorm gradient_norm(std::span<Parameter* const> parameters, Communicator& communicator) {
  GradientNorm result;
  ArenaScope scratch(thread_arena());
  auto* squares = scratch.allocate<double>(std::ssize(parameters));
  add_squares<float>(parameters, squares);
  add_squares<double>(parameters, squares);
  double replicated = 0.0;
  double sharded = 0.0;
  for (size_t i = 0; i < parameters.size(); ++i) {
    const Parameter* parameter = parameters[i];
    if (!counts(*parameter)) continue;
    if (!std::isfinite(squares[i]) && result.first_non_finite == nullptr) {
      result.first_non_finite = parameter;
    }
    (parameter->placement == Placement::replicated ? replicated : sharded) += squares[i];
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
