#include "autograd/kernels/symmetric_eigen.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "autograd/support/rng.h"

namespace sluice {
namespace {

void check_decomposition(size_t n) {
  std::vector<double> matrix(n * n);
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = i; j < n; ++j) {
      matrix[i * n + j] = matrix[j * n + i] = normal({.seed = 2}, i, j);
    }
  }
  std::vector<double> values(n);
  std::vector<double> vectors(n * n);
  kernels::symmetric_eigen(static_cast<int64_t>(n), matrix.data(), values.data(), vectors.data());
  EXPECT_TRUE(std::ranges::is_sorted(values));
  for (size_t i = 0; i < n; ++i) {
    for (size_t j = 0; j < n; ++j) {
      double product = 0.0;
      double inner = 0.0;
      for (size_t k = 0; k < n; ++k) {
        product += vectors[k * n + i] * values[k] * vectors[k * n + j];
        inner += vectors[i * n + k] * vectors[j * n + k];
      }
      EXPECT_NEAR(product, matrix[i * n + j], 1e-12);
      EXPECT_NEAR(inner, i == j ? 1.0 : 0.0, 1e-12);
    }
  }
}

TEST(SymmetricEigen, GivesTheMatrixBack) {
  check_decomposition(1);
  check_decomposition(2);
  check_decomposition(9);
}

TEST(SymmetricEigen, FindsThoseOfAMatrixSolvedByHand) {
  // (2, 1; 1, 2): 1 along (1, -1), 3 along (1, 1).
  const std::vector<double> matrix = {2.0, 1.0, 1.0, 2.0};
  std::vector<double> values(2);
  std::vector<double> vectors(4);
  kernels::symmetric_eigen(2, matrix.data(), values.data(), vectors.data());
  EXPECT_NEAR(values[0], 1.0, 1e-15);
  EXPECT_NEAR(values[1], 3.0, 1e-15);
  EXPECT_NEAR(vectors[0] + vectors[1], 0.0, 1e-15);
  EXPECT_NEAR(vectors[2] - vectors[3], 0.0, 1e-15);
}

}  // namespace
}  // namespace sluice
