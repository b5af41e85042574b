#pragma once
// Entropic optimal transport between the tokens of a micro-batch and the experts, by Sinkhorn's
// alternating scaling. Both forms return one number per expert: the plan of a token follows from
// its own affinities and these, so that a token which took no part can be routed by them too.
//
// Letters: T tokens, E experts.

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

struct SinkhornOptions {
  double tolerance;
  int64_t max_iterations;
};

/// Sinkhorn's scaling as Megatron-LM writes it (its routing of the S-BASE kind, Clark et al. 2022):
///
///   K = exp(z - max z), d0 = d1 = 1
///   repeat   d0 <- (1/T) / (K d1 + 1e-8),   d1 <- (1/E) / (K^T d0 + 1e-8)
///   until mean |d1 - d1_old| <= tolerance
///
/// The plan is diag(d0) K diag(d1), with row sums 1/T and column sums 1/E. Returns log d1 [E]: the
/// experts of token t rank by z_te + log d1_e. The floor of 1e-8 lets an expert that nobody wants
/// stay without tokens. Subtracting the largest z changes nothing but the floor's weight, and the
/// cap on the iterations is ours [R]. z is [T, E], T >= 1. O(T E) an iteration.
[[nodiscard]] std::vector<double> sinkhorn_shift(std::span<const double> z, int64_t tokens,
                                                 int64_t experts, const SinkhornOptions& options);

/// Potentials of   max over plans P > 0 of  <P, C> - xi <P, log P>,  P 1 = 1,  P^T 1 = (T/E) 1:
///
///   K = exp(C / xi), u = 1;  repeat  v <- (T/E) / (K^T u),  u <- 1 / (K v)
///
/// until the mean error of the column sums, relative to T/E, is below the tolerance. Returns
/// log v [E]; row t of the plan is softmax over e of C_te / xi + log v_e. In the log domain: u
/// never appears, since a row of the plan is a softmax. C is [T, E], T >= 1. O(T E) an
/// iteration, with one exponential per element.
[[nodiscard]] std::vector<double> entropic_potentials(std::span<const double> affinity,
                                                      int64_t tokens, int64_t experts, double xi,
                                                      const SinkhornOptions& options);

}  // namespace sluice
