#include "autograd/core/tensor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(Shape, KnowsItsSizesAndPrintsThem) {
  const Shape shape{2, 128, 512};
  EXPECT_EQ(shape.rank(), 3);
  EXPECT_EQ(shape.numel(), 2 * 128 * 512);
  EXPECT_EQ(shape[-1], 512);
  EXPECT_EQ(shape.rows(), 256);
  EXPECT_EQ(shape.to_string(), "[2, 128, 512]");
  EXPECT_EQ(Shape{}.numel(), 1);
  EXPECT_EQ((Shape{3, 0}).rows(), 3);
}

TEST(Shape, RefusesWhatCannotBe) {
  EXPECT_THROW((Shape{-1}), ShapeError);
  EXPECT_THROW((Shape{1, 1, 1, 1, 1, 1}), ShapeError);
  EXPECT_THROW((Shape{int64_t{1} << 40, int64_t{1} << 40}), ShapeError);
}

TEST(Tensor, SharesMemoryWhenCopiedAndNotWhenCloned) {
  Pool pool;
  Tensor x = Tensor::of<float>(pool, {2, 2}, std::vector<float>{1, 2, 3, 4});
  const Tensor shared = x;
  const Tensor deep = x.clone(pool);
  x.data<float>()[0] = 9;
  EXPECT_EQ(shared.data<float>()[0], 9);
  EXPECT_EQ(deep.data<float>()[0], 1);
  EXPECT_FALSE(x.unique());
  EXPECT_TRUE(deep.unique());
  EXPECT_TRUE(x.shares_memory_with(x.reshaped({4})));
}

TEST(Tensor, IsAlignedForVectors) {
  Pool pool;
  for (const int64_t n : {1, 17, 1000}) {
    const Tensor x = Tensor::zeros(pool, {n}, DType::f32);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(x.data<float>()) % 64, 0U);
  }
}

TEST(Tensor, RefusesAWrongDTypeShapeOrCount) {
  Pool pool;
  const Tensor x = Tensor::zeros(pool, {2, 3}, DType::f32);
  EXPECT_THROW((void)x.data<double>(), DTypeError);
  EXPECT_THROW((void)x.reshaped({7}), ShapeError);
  EXPECT_THROW((void)x.item(), ShapeError);
  EXPECT_THROW((void)Tensor::of<float>(pool, {2}, std::vector<float>{1}), ShapeError);
  Tensor other = Tensor::zeros(pool, {2, 3}, DType::f64);
  EXPECT_THROW(other.copy_from(x), DTypeError);
}

TEST(Shape, TakesAnotherSizeInOneDimension) {
  const Shape shape{2, 3, 4};
  EXPECT_EQ(shape.resized(-1, 7), (Shape{2, 3, 7}));
  EXPECT_EQ(shape.resized(0, 0), (Shape{0, 3, 4}));
  EXPECT_THROW((void)shape.resized(1, -1), ShapeError);
}

TEST(Tensor, MayHaveNoElements) {
  Pool pool;
  Tensor x = Tensor::zeros(pool, {0, 8}, DType::f32);
  EXPECT_EQ(x.numel(), 0);
  EXPECT_TRUE(x.span<float>().empty());
  EXPECT_EQ(x.clone(pool).shape(), x.shape());
}

TEST(Pool, ReusesBlocksOfTheSameSizeClass) {
  Pool pool;
  { const Tensor x = Tensor::empty(pool, {1000}, DType::f32); }
  const int64_t allocations = pool.system_allocations();
  for (int i = 0; i < 100; ++i) {
    const Tensor x = Tensor::empty(pool, {1000}, DType::f32);
  }
  EXPECT_EQ(pool.system_allocations(), allocations);
}

TEST(Pool, KeepsTheHighWaterMarkWithItsSplit) {
  Pool pool;
  const Tensor weights = Tensor::empty(pool, {1024}, DType::f32, MemoryKind::parameters);
  { const Tensor x = Tensor::empty(pool, {4096}, DType::f32); }
  EXPECT_EQ(pool.in_use().total(), 4096);
  EXPECT_EQ(pool.peak()[MemoryKind::activations], 16384);
  EXPECT_EQ(pool.peak()[MemoryKind::parameters], 4096);
  pool.reset_peak();
  EXPECT_EQ(pool.peak().total(), 4096);
}

TEST(Pool, CountsTheBlocksThatItHolds) {
  Pool pool;
  { const Tensor x = Tensor::empty(pool, {1024}, DType::f32); }
  const Tensor y = Tensor::empty(pool, {4096}, DType::f32);
  EXPECT_EQ(pool.in_use().total(), 16384);
  EXPECT_EQ(pool.system_bytes(), 16384 + 4096);
  pool.trim();
  EXPECT_EQ(pool.system_bytes(), 16384);
}

TEST(Pool, CountsWithoutMemoryWhenOnlyShapesAreWanted) {
  Pool pool(Pool::Mode::shapes_only);
  const Tensor x = Tensor::zeros(pool, {1 << 20, 1 << 10}, DType::f64);
  EXPECT_FALSE(x.has_memory());
  EXPECT_EQ(pool.in_use().total(), int64_t{1} << 33);
}

TEST(Pool, BlocksOutliveTheirPool) {
  Tensor x;
  {
    Pool pool;
    x = Tensor::of<float>(pool, {2}, std::vector<float>{1, 2});
  }
  EXPECT_EQ(x.data<float>()[1], 2);
}

}  // namespace
}  // namespace sluice
