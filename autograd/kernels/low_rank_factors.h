#pragma once
// The nearest matrix of a given rank, in factors.

#include <cstdint>

namespace sluice::kernels {

/// x [rows, columns] ~ left [rows, rank] right [rank, columns], the best of its rank (Eckart and Young
/// 1936): x = U S V^T, left = U_r S_r^(1/2), right = S_r^(1/2) V_r^T; rank from 0 to the smaller side. The
/// norm of the rest, (sum of the squares of the singular values left out)^(1/2). For transformations of
/// whole models: one thread, and it takes memory.
[[nodiscard]] double low_rank_factors(int64_t rows, int64_t columns, const double* x, int64_t rank,
                                      double* left, double* right);

}  // namespace sluice::kernels
