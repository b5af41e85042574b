#include "train/transforms/gather_slices.h"

#include <gtest/gtest.h>

#include <cmath>

#include "autograd/support/error.h"
#include "train/transforms/averaging.h"

namespace sluice {
namespace {

template <class T>
StateArray array_of(std::vector<int64_t> dims, const std::vector<T>& values) {
  StateArray array{element_type_of<T>, std::move(dims), {}};
  const auto bytes = std::as_bytes(std::span(values));
  array.bytes.assign(bytes.begin(), bytes.end());
  return array;
}

TEST(GatherSlices, TakesThemAlongAnyAxisInTheOrderGiven) {
  const StateArray array = array_of<float>({2, 3, 2}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11});
  const std::vector<int64_t> first{1, 0, 1};
  EXPECT_EQ(gather_slices(array, 0, first),
            array_of<float>({3, 3, 2}, {6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}));
  const std::vector<int64_t> middle{2};
  EXPECT_EQ(gather_slices(array, 1, middle), array_of<float>({2, 1, 2}, {4, 5, 10, 11}));
  const std::vector<int64_t> last{1, 1};
  EXPECT_EQ(gather_slices(array, 2, last),
            array_of<float>({2, 3, 2}, {1, 1, 3, 3, 5, 5, 7, 7, 9, 9, 11, 11}));
  const std::vector<int64_t> outside{2};
  EXPECT_THROW((void)gather_slices(array, 0, outside), InternalError);
}

TEST(ResizeExperts, ChangesTheAxesThatDiffer) {
  const StateArray square = array_of<double>({2, 2}, {1, 2, 3, 4});
  const std::vector<int64_t> index{0, 1, 1};
  const std::vector<int64_t> both{3, 3};
  EXPECT_EQ(resize_experts(square, both, 2, index),
            array_of<double>({3, 3}, {1, 2, 2, 3, 4, 4, 3, 4, 4}));
  const std::vector<int64_t> rows{3, 2};
  EXPECT_EQ(resize_experts(square, rows, 2, index), array_of<double>({3, 2}, {1, 2, 3, 4, 3, 4}));
  const std::vector<int64_t> other{4, 2};
  EXPECT_FALSE(can_resize_experts(square.dims, other, 2, 3));
  EXPECT_THROW((void)resize_experts(square, other, 2, index), InternalError);
}

TEST(Average, IsTheMeanAndOfEqualNumbersThatNumber) {
  const StateArray a = array_of<double>({3}, {1.0, 0.1, -0.0});
  const StateArray b = array_of<double>({3}, {2.0, 0.1, -0.0});
  const StateArray c = array_of<double>({3}, {6.0, 0.1, -0.0});
  const StateArray* const all[] = {&a, &b, &c};
  const StateArray mean = average(all);
  EXPECT_DOUBLE_EQ(mean.values<double>()[0], 3.0);
  EXPECT_EQ(mean.values<double>()[1], 0.1) << "a sum of three of them would be rounded";
  EXPECT_TRUE(std::signbit(mean.values<double>()[2]));
  const StateArray* const same[] = {&a, &a, &a, &a, &a, &a, &a};
  EXPECT_EQ(average(same), a);
}

}  // namespace
}  // namespace sluice
