#include "balance/entropy.h"

#include <algorithm>

#include "autograd/ops/elementwise.h"
#include "autograd/ops/reduce.h"
#include "balance/losses.h"

namespace sluice {
namespace {

/// Keeps the logarithm of a probability that underflowed to 0 finite; lost in rounding beside any
/// probability that matters.
constexpr double kTokenEpsilon = 1e-30;
constexpr double kMarginalEpsilon = 1e-8;

/// p log(p + epsilon)
Tensor log_weighted(Tape& tape, const Tensor& p, double epsilon) {
  return mul(tape, p, log(tape, add_constant(tape, p, epsilon)));
}

}  // namespace

Tensor token_entropy_sum(Tape& tape, const RouterInput& input, double factor) {
  const Tensor negative = sum_last(tape, log_weighted(tape, input.router.probabilities,
                                                      kTokenEpsilon));  // [N]
  return sum(tape, mul(tape, negative, counted_rows(tape, input, -factor)));
}

Tensor marginal_entropy(Tape& tape, const RouterInput& input) {
  const int64_t counted = std::max<int64_t>(1, input.layout.counted_tokens());
  const Tensor weights = counted_rows(tape, input, 1.0 / static_cast<double>(counted));
  const Tensor marginal = sum_rows(tape, mul_rows(tape, input.router.probabilities, weights));
  return scale(tape, sum(tape, log_weighted(tape, marginal, kMarginalEpsilon)), -1.0);
}

}  // namespace sluice
