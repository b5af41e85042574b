#include "bench/gemm_libraries.h"

#include <gtest/gtest.h>

#include <limits>

#include "autograd/kernels/reference/gemm.h"
#include "autograd/support/parallel.h"
#include "tests/support/arrays.h"

namespace sluice::bench {
namespace {

using testing::Array;

/// op(A) [M, K] times op(B) [K, N], the operands' rows `kPadding` elements apart.
struct Product {
  static constexpr int64_t kPadding = 3;
  Product(kernels::GemmSize size_, bool a_transposed, bool b_transposed)
      : size(size_),
        a_stride((a_transposed ? size.M : size.K) + kPadding),
        b_stride((b_transposed ? size.K : size.N) + kPadding),
        c_stride(size.N + kPadding),
        a(Array<float>::uniform((a_transposed ? size.K : size.M) * a_stride, 1)),
        b(Array<float>::uniform((b_transposed ? size.N : size.K) * b_stride, 2)),
        left{a.data(), a_stride, a_transposed},
        right{b.data(), b_stride, b_transposed} {}
  [[nodiscard]] Array<double> reference(const Array<float>& c, double alpha, double beta) const {
    const auto a64 = a.in_double();
    const auto b64 = b.in_double();
    auto result = c.in_double();
    kernels::reference::gemm<double>(size, {a64.data(), a_stride, left.transposed},
                                     {b64.data(), b_stride, right.transposed},
                                     {result.data(), c_stride, alpha, beta});
    return result;
  }
  kernels::GemmSize size;
  int64_t a_stride, b_stride, c_stride;
  Array<float> a, b;
  kernels::GemmOperand<float> left, right;
};

void expect_near_reference(const GemmLibrary& library, const Product& p, float alpha, float beta) {
  const auto [M, N, K] = p.size;
  const Array<float> before =
      beta == 0.0F ? Array<float>(M * p.c_stride, std::numeric_limits<float>::quiet_NaN())
                   : Array<float>::uniform(M * p.c_stride, 3);
  const Array<double> expected = p.reference(before, alpha, beta);
  Array<float> c = before;
  library.gemm(p.size, p.left, p.right, {c.data(), p.c_stride, alpha, beta});
  // K products below 1 and their sums, rounded in whatever order.
  const double tolerance = (4.0 + static_cast<double>(K)) * std::numeric_limits<float>::epsilon();
  for (int64_t i = 0; i < M; ++i) {
    for (int64_t j = 0; j < p.c_stride; ++j) {
      const int64_t at = i * p.c_stride + j;
      if (j < N) {
        ASSERT_NEAR(static_cast<double>(c[at]), expected[at], tolerance)
            << library.name << " (" << i << ", " << j << ") of " << M << " x " << N << " x " << K;
      } else {  // beyond the row's end nothing is touched
        ASSERT_EQ(std::memcmp(&c[at], &before[at], sizeof(float)), 0) << library.name;
      }
    }
  }
  EXPECT_TRUE(c.guards_intact()) << library.name;
}

class GemmLibraries : public ::testing::TestWithParam<int> {
 protected:
  GemmLibraries() { set_num_threads(GetParam()); }
  ~GemmLibraries() override { set_num_threads(num_processors()); }
};

TEST_P(GemmLibraries, AgreeWithTheReferenceInEveryForm) {
  const std::vector<kernels::GemmSize> sizes{{1, 1, 1},      {5, 70, 9}, {70, 5, 33},
                                             {150, 37, 300}, {2, 3, 0},  {64, 256, 128}};
  for (const GemmLibrary& library : gemm_libraries()) {
    for (const auto& size : sizes) {
      for (const bool a_transposed : {false, true}) {
        for (const bool b_transposed : {false, true}) {
          const Product product(size, a_transposed, b_transposed);
          expect_near_reference(library, product, 1.0F, 0.0F);
          expect_near_reference(library, product, -0.5F, 1.0F);
          expect_near_reference(library, product, 2.0F, 0.25F);
        }
      }
    }
  }
}

TEST_P(GemmLibraries, OfNothingWriteNothing) {
  for (const GemmLibrary& library : gemm_libraries()) {
    Array<float> c(6, 5.0F);
    library.gemm({0, 3, 4}, {nullptr, 4}, {nullptr, 3}, {c.data(), 3});
    library.gemm({2, 0, 4}, {nullptr, 4}, {nullptr, 3}, {c.data(), 3});
    for (int64_t i = 0; i < c.size(); ++i) EXPECT_EQ(c[i], 5.0F) << library.name;
  }
}

TEST_P(GemmLibraries, MayBeCalledInsideAParallelLoop) {
  const Product product({40, 50, 60}, false, true);
  for (const GemmLibrary& library : gemm_libraries()) {
    parallel_for(4, [&](int64_t) { expect_near_reference(library, product, 1.0F, 0.0F); });
  }
}

INSTANTIATE_TEST_SUITE_P(OnThreads, GemmLibraries, ::testing::Values(1, 2));

TEST(GemmLibraryList, StartsWithOurOwnAndHasEigen) {
  ASSERT_GE(gemm_libraries().size(), 2u);
  EXPECT_STREQ(gemm_libraries()[0].name, "own");
  EXPECT_STREQ(gemm_libraries()[1].name, "eigen");
}

TEST(GemmRates, TakeTheLargestMedianAsTheBest) {
  GemmRates rates;
  for (const double rate : {1.0, 9.0, 2.0}) rates.add("own", rate);
  GemmRates others;
  for (const double rate : {3.0, 3.0, 4.0}) others.add("eigen", rate);
  others.add("own", 4.0);
  rates.add(others);
  EXPECT_EQ(rates.of("own"), 3.0);
  EXPECT_EQ(rates.of("eigen"), 3.0);
  EXPECT_EQ(rates.best(), 3.0);
  rates.add("own", 5.0);
  EXPECT_EQ(rates.best(), 4.0);
  EXPECT_EQ(rates.of("none"), 0.0);
}

}  // namespace
}  // namespace sluice::bench
