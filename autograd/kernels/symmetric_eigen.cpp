#include "autograd/kernels/symmetric_eigen.h"

// GCC warns inside Eigen's AVX-512 code.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <Eigen/Eigenvalues>

namespace sluice::kernels {

void symmetric_eigen(int64_t n, const double* matrix, double* values, double* vectors) {
  const Eigen::Map<const Eigen::MatrixXd> given(matrix, n, n);
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(given);
  Eigen::Map<Eigen::VectorXd>(values, n) = solver.eigenvalues();
  Eigen::Map<Eigen::MatrixXd>(vectors, n, n) = solver.eigenvectors();  // a column here is a row there
}

}  // namespace sluice::kernels
