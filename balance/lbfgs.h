#pragma once
// Limited-memory BFGS for the smooth, convex and unconstrained problems behind some methods.
//
// Liu and Nocedal 1989; the two-loop recursion with a line search for the weak Wolfe conditions by
// bisection, which also holds its own where the gradient jumps (Lewis and Overton 2013).

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/support/function_ref.h"

namespace sluice {

struct LbfgsOptions {
  int64_t max_iterations = 500;
  /// Stop when no element of the gradient is larger.
  double tolerance = 1e-3;
  int64_t history = 10;
};

struct LbfgsResult {
  double value;
  double largest_gradient;
  int64_t iterations;
};

/// Lowers f from `x` on; x is the best point found. `f` returns the value at its first argument and
/// fills the gradient. Ends at the tolerance, at max_iterations, or when no step lowers the value.
/// Serial sums, so f's order of summation decides the bits.
LbfgsResult minimise(FunctionRef<double(std::span<const double>, std::span<double>)> f,
                     std::vector<double>& x, const LbfgsOptions& options);

}  // namespace sluice
