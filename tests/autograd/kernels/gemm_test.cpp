#include "autograd/kernels/gemm.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <limits>

#include "autograd/kernels/gemm_eigen.h"
#include "autograd/kernels/gemm_micro.h"
#include "autograd/kernels/reference/gemm.h"
#include "tests/support/arrays.h"

namespace sluice::kernels {
namespace {

using testing::Array;
using testing::expect_same_bits_on_any_threads;

template <class T>
class Gemm : public ::testing::Test {};
using FloatTypes = ::testing::Types<float, double>;
TYPED_TEST_SUITE(Gemm, FloatTypes);

// K products of numbers below 1 are added one after the other; each addition rounds by half an
// epsilon of a partial sum that stays below sqrt(K) with these signs.
double coefficient(int64_t K) { return 4.0 + static_cast<double>(K); }

/// A product whose operands lie in memory with `padding` elements after each row.
template <class T>
struct Product {
  Product(GemmSize size_, bool a_transposed, bool b_transposed, int64_t padding, double beta = 0)
      : size(size_),
        a_stride((a_transposed ? size.M : size.K) + padding),
        b_stride((b_transposed ? size.K : size.N) + padding),
        c_stride(size.N + padding),
        a(Array<T>::uniform((a_transposed ? size.K : size.M) * a_stride, 1)),
        b(Array<T>::uniform((b_transposed ? size.N : size.K) * b_stride, 2)),
        c(beta == 0 ? Array<T>(size.M * c_stride, std::numeric_limits<T>::quiet_NaN())
                    : Array<T>::uniform(size.M * c_stride, 3)),
        left{a.data(), a_stride, a_transposed},
        right{b.data(), b_stride, b_transposed} {}

  GemmSize size;
  int64_t a_stride, b_stride, c_stride;
  Array<T> a, b, c;
  GemmOperand<T> left, right;
};

template <class T>
void expect_near_reference(const Product<T>& product, const Array<T>& c, double alpha,
                           double beta) {
  const auto a64 = product.a.in_double();
  const auto b64 = product.b.in_double();
  auto c64 = product.c.in_double();
  reference::gemm<double>(product.size, {a64.data(), product.a_stride, product.left.transposed},
                          {b64.data(), product.b_stride, product.right.transposed},
                          {c64.data(), product.c_stride, alpha, beta});
  const double tolerance =
      coefficient(product.size.K) * static_cast<double>(std::numeric_limits<T>::epsilon());
  for (int64_t i = 0; i < product.size.M; ++i) {
    for (int64_t j = 0; j < product.c_stride; ++j) {
      const int64_t at = i * product.c_stride + j;
      if (j < product.size.N) {
        ASSERT_NEAR(static_cast<double>(c[at]), c64[at], tolerance)
            << "(" << i << ", " << j << ") of " << product.size.M << " x " << product.size.N
            << " x " << product.size.K;
      } else {  // beyond the row's end nothing is touched
        ASSERT_EQ(std::memcmp(&c[at], &product.c[at], sizeof(T)), 0);
      }
    }
  }
  EXPECT_TRUE(c.guards_intact());
}

/// Sizes around the register tile, the blocks of K and the packing blocks.
template <class T>
std::vector<GemmSize> sizes() {
  const int64_t rows = kTileRows;
  const int64_t columns = kTileColumns<T>;
  return {{1, 1, 1},
          {1, columns, 7},
          {rows - 1, columns - 1, 15},
          {rows, columns, 16},
          {rows + 1, columns + 1, 17},
          {3, 2 * columns + 5, kMaxDepth},
          {2 * rows + 3, 3, kMaxDepth + 1},
          {150, 37, 2 * kMaxDepth + 3},
          {37 * rows, 33, 40},
          {145, 300, 64}};
}

TYPED_TEST(Gemm, EqualsTheReferenceInEveryForm) {
  using T = TypeParam;
  for (const GemmSize& size : sizes<T>()) {
    for (const bool a_transposed : {false, true}) {
      for (const bool b_transposed : {false, true}) {
        const Product<T> product(size, a_transposed, b_transposed, 3);
        Array<T> c = product.c;
        gemm<T>(size, product.left, product.right, {c.data(), product.c_stride});
        expect_near_reference(product, c, 1, 0);
      }
    }
  }
}

TYPED_TEST(Gemm, ScalesAndAdds) {
  using T = TypeParam;
  for (const auto& [alpha, beta] :
       std::vector<std::pair<double, double>>{{1, 1}, {-0.5, 1}, {2, -0.25}}) {
    for (const GemmSize& size : {GemmSize{5, 40, 9}, GemmSize{20, 70, 2 * kMaxDepth + 1}}) {
      const Product<T> product(size, false, true, 2, beta);
      Array<T> c = product.c;
      gemm<T>(size, product.left, product.right,
              {c.data(), product.c_stride, static_cast<T>(alpha), static_cast<T>(beta)});
      expect_near_reference(product, c, alpha, beta);
    }
  }
}

TYPED_TEST(Gemm, OfNothingWritesNothingAndAnEmptySumIsZero) {
  using T = TypeParam;
  Array<T> c(6, T{5});
  gemm<T>({0, 3, 4}, {nullptr, 4}, {nullptr, 3}, {c.data(), 3});
  gemm<T>({2, 0, 4}, {nullptr, 4}, {nullptr, 3}, {c.data(), 3});
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(c[i], T{5});
  gemm<T>({2, 3, 0}, {nullptr, 0}, {nullptr, 3}, {c.data(), 3, T{1}, T{2}});
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(c[i], T{10});
  c[0] = std::numeric_limits<T>::quiet_NaN();
  gemm<T>({2, 3, 0}, {nullptr, 0}, {nullptr, 3}, {c.data(), 3});
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(c[i], T{0});
}

TYPED_TEST(Gemm, GivesARowTheSameBitsInAnyBatch) {
  using T = TypeParam;
  constexpr GemmSize kWhole{300, 75, 2 * kMaxDepth + 9};
  for (const bool b_transposed : {false, true}) {
    const Product<T> product(kWhole, false, b_transposed, 0);
    Array<T> whole = product.c;
    gemm<T>(kWhole, product.left, product.right, {whole.data(), kWhole.N});
    for (const int64_t first : {int64_t{0}, int64_t{13}, int64_t{299}}) {
      for (const int64_t rows : {1, 2, 5, 20, 150}) {
        if (first + rows > kWhole.M) continue;
        Array<T> part(rows * kWhole.N);
        gemm<T>({rows, kWhole.N, kWhole.K}, {product.left.data + first * kWhole.K, kWhole.K},
                product.right, {part.data(), kWhole.N});
        for (int64_t i = 0; i < part.size(); ++i) {
          ASSERT_EQ(part[i], whole[first * kWhole.N + i]) << rows << " rows from " << first;
        }
      }
    }
  }
}

TYPED_TEST(Gemm, GivesAColumnTheSameBitsAmongAnyColumns) {
  using T = TypeParam;
  constexpr GemmSize kWhole{20, 90, 50};
  const Product<T> product(kWhole, true, false, 0);
  Array<T> whole = product.c;
  gemm<T>(kWhole, product.left, product.right, {whole.data(), kWhole.N});
  for (int64_t first = 0; first < kWhole.N; first += 7) {
    const int64_t columns = std::min<int64_t>(31, kWhole.N - first);
    Array<T> part(kWhole.M * columns);
    gemm<T>({kWhole.M, columns, kWhole.K}, product.left, {product.right.data + first, kWhole.N},
            {part.data(), columns});
    for (int64_t i = 0; i < part.size(); ++i) {
      ASSERT_EQ(part[i], whole[i / columns * kWhole.N + first + i % columns]);
    }
  }
}

TYPED_TEST(Gemm, SerialParallelAndPackedFormsGiveTheSameBits) {
  using T = TypeParam;
  for (const GemmSize& size : sizes<T>()) {
    for (const bool b_transposed : {false, true}) {
      const Product<T> product(size, false, b_transposed, 0, 1);
      const auto result = [&](Array<T>& c) {
        return GemmResult<T>{c.data(), size.N, T(0.5), T(1)};
      };
      Array<T> parallel = product.c;
      gemm<T>(size, product.left, product.right, result(parallel));
      Array<T> serial = product.c;
      gemm_serial<T>(size, product.left, product.right, result(serial));
      EXPECT_TRUE(serial.same_bits(parallel));
      Array<T> packed_b(packed_size<T>(size.N, size.K));
      pack<T>(size.N, size.K, product.right, packed_b.data());
      Array<T> packed = product.c;
      gemm_packed<T>(size, product.left, packed_b.data(), result(packed));
      EXPECT_TRUE(packed.same_bits(parallel));
      EXPECT_TRUE(packed_b.guards_intact());
    }
  }
}

/// Operands and results of three products that share one operand, of sizes that fill no whole tile.
template <class T>
struct ThreeProducts {
  static constexpr std::array<int64_t, 3> kSizes{kTileRows + 5, 2 * kTileColumns<T> + 3, 1};

  /// Every own operand has n rows or, `transposed`, K rows; every result n x other, or other x n.
  ThreeProducts(int64_t other, int64_t K, bool transposed, bool by_rows) {
    for (size_t i = 0; i < kSizes.size(); ++i) {
      const int64_t n = kSizes[i];
      operands.push_back(Array<T>::uniform(n * K, 10 + i));
      results.push_back(Array<T>::uniform(n * other, 20 + i));
      products[i] = {n,
                     {operands[i].data(), transposed ? n : K, transposed},
                     {nullptr, by_rows ? other : n, T(0.5), i == 1 ? T(0) : T(1)}};
    }
  }
  /// The products with results in `to`.
  [[nodiscard]] std::array<JointProduct<T>, 3> into(std::vector<Array<T>>& to) const {
    std::array<JointProduct<T>, 3> with_results = products;
    for (size_t i = 0; i < to.size(); ++i) with_results[i].c.data = to[i].data();
    return with_results;
  }
  void expect_same(const std::vector<Array<T>>& joint, const std::vector<Array<T>>& alone) const {
    for (size_t i = 0; i < joint.size(); ++i) {
      EXPECT_TRUE(joint[i].same_bits(alone[i])) << "product " << i;
      EXPECT_TRUE(joint[i].guards_intact()) << "product " << i;
    }
  }

  std::vector<Array<T>> operands, results;
  std::array<JointProduct<T>, 3> products;
};

/// Few rows and many, an empty sum, chains of one block and of several.
constexpr std::array<std::pair<int64_t, int64_t>, 5> kJointSizes{
    {{1, 7}, {5, kMaxDepth + 3}, {300, 20}, {157, 2 * kMaxDepth + 1}, {9, 0}}};

TYPED_TEST(Gemm, JointColumnsHaveTheBitsOfOneProductEach) {
  using T = TypeParam;
  for (const auto& [M, K] : kJointSizes) {
    for (const bool a_transposed : {false, true}) {
      const ThreeProducts<T> three(M, K, !a_transposed, false);
      const auto a = Array<T>::uniform(M * K, 1);
      const GemmOperand<T> left{a.data(), a_transposed ? M : K, a_transposed};
      // op(B) is [K, n]: an operand of n rows is read transposed.
      const auto as_right = [](std::array<JointProduct<T>, 3> products) {
        for (auto& product : products) product.operand.transposed = !product.operand.transposed;
        return products;
      };
      auto joint = three.results;
      gemm_joint_columns<T>(M, K, left, as_right(three.into(joint)));
      auto alone = three.results;
      for (const auto& product : as_right(three.into(alone))) {
        gemm<T>({M, product.n, K}, left, product.operand, product.c);
      }
      three.expect_same(joint, alone);
    }
  }
}

TYPED_TEST(Gemm, JointRowsHaveTheBitsOfOneProductEach) {
  using T = TypeParam;
  for (const auto& [N, K] : kJointSizes) {
    for (const bool transposed : {false, true}) {
      const ThreeProducts<T> three(N, K, transposed, true);
      const auto b = Array<T>::uniform(N * K, 1);
      const GemmOperand<T> right{b.data(), N, false};
      auto joint = three.results;
      gemm_joint_rows<T>(N, K, three.into(joint), right);
      auto alone = three.results;
      for (const auto& product : three.into(alone)) {
        gemm<T>({product.n, N, K}, product.operand, right, product.c);
      }
      three.expect_same(joint, alone);
    }
  }
}

TYPED_TEST(Gemm, OfASumHasTheBitsOfItsTermsInOrder) {
  using T = TypeParam;
  constexpr std::array<int64_t, 4> kDepths{kMaxDepth + 5, 0, 3, 40};
  for (const auto& [M, N] : {std::pair<int64_t, int64_t>{3, 40}, {300, 75}, {150, 2100}}) {
    for (const double beta : {0.0, -0.5}) {
      std::vector<Array<T>> a, b;
      std::vector<GemmTerm<T>> terms;
      for (size_t i = 0; i < kDepths.size(); ++i) {
        a.push_back(Array<T>::uniform(M * kDepths[i], 30 + i));
        b.push_back(Array<T>::uniform(N * kDepths[i], 40 + i));
      }
      for (size_t i = 0; i < kDepths.size(); ++i) {
        terms.push_back({kDepths[i], {a[i].data(), kDepths[i]}, {b[i].data(), N}});
      }
      const auto before = Array<T>::uniform(M * N, 5);
      Array<T> sum = before;
      gemm_sum<T>(M, N, terms, {sum.data(), N, T(2), static_cast<T>(beta)});
      Array<T> in_turn = before;
      T scale = static_cast<T>(beta);
      for (const auto& term : terms) {
        gemm<T>({M, N, term.K}, term.a, term.b, {in_turn.data(), N, T(2), scale});
        scale = T{1};
      }
      EXPECT_TRUE(sum.same_bits(in_turn)) << M << " x " << N << ", beta " << beta;
    }
  }
}

TYPED_TEST(Gemm, OfNoTermsScales) {
  using T = TypeParam;
  Array<T> c(6, T{5});
  gemm_sum<T>(2, 3, {}, {c.data(), 3, T{1}, T{2}});
  for (int64_t i = 0; i < 6; ++i) EXPECT_EQ(c[i], T{10});
}

TYPED_TEST(Gemm, JointFormsGiveTheSameBitsOnAnyNumberOfThreads) {
  using T = TypeParam;
  constexpr int64_t kOther = 310;
  constexpr int64_t kDepth = 300;
  const auto shared = Array<T>::uniform(kOther * kDepth, 1);
  const ThreeProducts<T> columns(kOther, kDepth, true, false);
  expect_same_bits_on_any_threads([&] {
    auto joint = columns.results;
    auto products = columns.into(joint);
    for (auto& product : products) product.operand.transposed = false;
    gemm_joint_columns<T>(kOther, kDepth, {shared.data(), kDepth}, products);
    return joint[1];
  });
}

TYPED_TEST(Gemm, GivesTheSameBitsOnAnyNumberOfThreads) {
  using T = TypeParam;
  constexpr GemmSize kSize{310, 300, 300};
  const Product<T> product(kSize, false, true, 0);
  expect_same_bits_on_any_threads([&] {
    Array<T> c = product.c;
    gemm<T>(kSize, product.left, product.right, {c.data(), kSize.N});
    return c;
  });
}

TYPED_TEST(Gemm, CutsALargeRightOperandWithoutChangingARow) {
  // More elements of B than are packed at a time, both in K and in N.
  using T = TypeParam;
  constexpr GemmSize kSize{kTileRows * 10 + 1, 700, 2100};
  const Product<T> product(kSize, false, false, 0);
  Array<T> c = product.c;
  gemm<T>(kSize, product.left, product.right, {c.data(), kSize.N});
  for (const int64_t row : {int64_t{0}, kSize.M - 1}) {
    Array<T> alone(kSize.N);
    gemm_serial<T>({1, kSize.N, kSize.K}, {product.left.data + row * kSize.K, kSize.K},
                   product.right, {alone.data(), kSize.N});
    for (int64_t j = 0; j < kSize.N; ++j) ASSERT_EQ(alone[j], c[row * kSize.N + j]);
  }
}

TYPED_TEST(Gemm, PassesOnWhatIsNotFinite) {
  using T = TypeParam;
  const Product<T> product({20, 40, 30}, false, false, 0);
  Array<T> a = product.a;
  a[3 * 30 + 5] = std::numeric_limits<T>::quiet_NaN();
  Array<T> c(20 * 40);
  gemm<T>({20, 40, 30}, {a.data(), 30}, product.right, {c.data(), 40});
  for (int64_t i = 0; i < 20; ++i) {
    for (int64_t j = 0; j < 40; ++j) EXPECT_EQ(std::isnan(c[i * 40 + j]), i == 3);
  }
}

TYPED_TEST(Gemm, AgreesWithEigen) {
  using T = TypeParam;
  for (const bool a_transposed : {false, true}) {
    for (const bool b_transposed : {false, true}) {
      for (const double beta : {0.0, 0.5}) {
        const Product<T> product({33, 45, 70}, a_transposed, b_transposed, 1, beta);
        Array<T> c = product.c;
        gemm_eigen<T>(product.size, product.left, product.right,
                      {c.data(), product.c_stride, T(2), static_cast<T>(beta)});
        expect_near_reference(product, c, 2, beta);
      }
    }
  }
}

}  // namespace
}  // namespace sluice::kernels
