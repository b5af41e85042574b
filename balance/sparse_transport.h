#pragma once
// Quadratic optimal transport between tokens and experts in which an expert takes at most kappa
// tokens:
//
//   min over Pi >= 0 of  -<Pi, A> + (gamma / 2) ||Pi||^2,   Pi 1 = a,  Pi^T 1 = b,
//                        at most kappa of the T elements of every column above 0
//
// solved through its semi-dual,
//
//   max over alpha of  <a, alpha> - sum_e b_e m_e(alpha + A_e),
//   m_e(x) = max over y on the simplex with at most kappa elements of <x, y> - (gamma b_e/2) |y|^2
//   Pi_e = b_e proj((alpha + A_e) / (b_e gamma)),    gradient  a - Pi 1
//
// where proj keeps the kappa largest elements and projects them on the simplex. Liu, Puigcerver and
// Blondel 2023, "Sparsity-Constrained Optimal Transport". Columns sum to b
// exactly; rows reach a as far as the constraint allows. L-BFGS, as in the paper.
//
// Letters: T tokens, E experts.

#include <cstdint>
#include <span>
#include <vector>

#include "balance/lbfgs.h"

namespace sluice {

/// The point of the simplex with at most `kappa` elements above 0 that is closest to v, ties to the
/// lower index. Returns the threshold theta: element i is max(0, v_i - theta) when it is among the
/// kappa largest, else 0. `result` [T].
double project_sparse_simplex(std::span<const double> v, int64_t kappa, std::span<double> result);

struct SparseTransportProblem {
  int64_t tokens;
  int64_t experts;
  int64_t kappa;                     // from 1; T or more means no constraint
  double gamma;                      // above 0
  double row_mass;                   // a of every token
  std::span<const double> affinity;  // A [T, E]; b is T a / E for every expert
};

struct SparseTransportPlan {
  std::vector<double> plan;   // Pi [T, E]
  std::vector<double> alpha;  // [T]
  std::vector<double>
      level;  // [E]: Pi_te = max(0, (alpha_t + A_te) / gamma - level_e) where chosen
  double dual_value;
  double largest_error;  // of a row sum
};

/// Affinities must be finite. O(T E) and a partial sort of every column per evaluation of the dual.
[[nodiscard]] SparseTransportPlan solve_sparse_transport(const SparseTransportProblem& problem,
                                                         const LbfgsOptions& options);

}  // namespace sluice
