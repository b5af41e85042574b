#pragma once
// Least squares for a handful of rows, in double.

#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

/// The x [n, p] of smallest norm among those that minimise |a x - b|: a [m, n] and b [m, p] by rows,
/// any rank. Singular values up to
/// max(m, n) epsilon times the root of the sum of squares of a count as zero. By one-sided
/// Jacobi rotations (Hestenes 1958), O(m n^2) a sweep, some ten sweeps. All numbers finite.
[[nodiscard]] std::vector<double> least_squares(std::span<const double> a, int64_t m, int64_t n,
                                                std::span<const double> b, int64_t p);

}  // namespace sluice
