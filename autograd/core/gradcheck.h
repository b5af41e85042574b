#pragma once
// The gradient checker: the tape's gradients against central differences, in double.
//
// The outputs are contracted with fixed random weights, since a plain sum hides errors behind
// symmetry (a softmax row sums to one whatever its gradient is). An element passes when |analytic -
// numeric| <= atol + rtol * max(|analytic|, |numeric|, scale), scale being the largest numeric
// gradient of that input: differences carry an absolute rounding error of about 1e-16 * |f| / step,
// which dominates for elements whose gradient is nearly zero.

#include <string>

#include "autograd/core/op_info.h"
#include "autograd/core/tape.h"

namespace sluice {

struct GradcheckOptions {
  double step = 1e-5;  // scaled by max(1, |x|)
  double relative_tolerance = 1e-6;
  double absolute_tolerance = 1e-8;
  /// Elements checked per input; more are sampled evenly.
  int64_t max_elements = 400;
};

struct GradcheckReport {
  bool passed = true;
  double worst_error = 0.0;  // in units of the tolerance: above 1 fails
  std::string message;       // the worst element: input, index, analytic, numeric
};

/// Checks every differentiable input of `sample`, whose tensors must be f64.
[[nodiscard]] GradcheckReport gradcheck(Pool& pool, const OpSample& sample,
                                        const GradcheckOptions& options = {});

/// Gradients of <weights, outputs> for every differentiable input (undefined for the others); the
/// weights are uniform in
/// [-1, 1), fixed by `seed`. The tape is reset.
[[nodiscard]] std::vector<Tensor> weighted_gradients(Pool& pool, const OpSample& sample,
                                                     uint64_t seed = 7);

}  // namespace sluice
