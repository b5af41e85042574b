#include "autograd/kernels/low_rank_factors.h"

// GCC warns inside Eigen's AVX-512 code.
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <Eigen/SVD>
#include <cmath>

namespace sluice::kernels {

double low_rank_factors(int64_t rows, int64_t columns, const double* x, int64_t rank, double* left,
                        double* right) {
  using Matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const Eigen::Map<const Matrix> matrix(x, rows, columns);
  const Eigen::BDCSVD<Eigen::MatrixXd> svd(matrix, Eigen::ComputeThinU | Eigen::ComputeThinV);
  const Eigen::VectorXd& values = svd.singularValues();
  for (int64_t r = 0; r < rank; ++r) {
    const double root = std::sqrt(values[r]);
    for (int64_t i = 0; i < rows; ++i) left[i * rank + r] = root * svd.matrixU()(i, r);
    for (int64_t j = 0; j < columns; ++j) right[r * columns + j] = root * svd.matrixV()(j, r);
  }
  double rest = 0.0;
  for (int64_t r = rank; r < values.size(); ++r) rest += values[r] * values[r];
  return std::sqrt(rest);
}

}  // namespace sluice::kernels
