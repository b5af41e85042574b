#pragma once
// The eigenvalues of a symmetric matrix.

#include <cstdint>

namespace sluice::kernels {

/// matrix [n, n], symmetric: its eigenvalues, ascending, to values [n], and their eigenvectors, of length
/// 1, as the rows of vectors [n, n], of either sign. For transformations of whole models: one thread, and
/// it takes memory.
void symmetric_eigen(int64_t n, const double* matrix, double* values, double* vectors);

}  // namespace sluice::kernels
