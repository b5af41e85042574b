#include "bench/statistics.h"

#include <gtest/gtest.h>

namespace sluice::bench {
namespace {

TEST(Quantile, LiesLinearlyBetweenNeighbours) {
  EXPECT_EQ(quantile({4.0, 1.0, 3.0, 2.0, 5.0}, 0.25), 2.0);
  EXPECT_EQ(quantile({4.0, 1.0, 3.0, 2.0}, 0.25), 1.75);
  EXPECT_EQ(quantile({4.0, 1.0, 3.0, 2.0}, 0.0), 1.0);
  EXPECT_EQ(quantile({4.0, 1.0, 3.0, 2.0}, 1.0), 4.0);
}

TEST(Median, IsTheMiddleOfAnyOrder) {
  EXPECT_EQ(median({9.0, 1.0, 5.0}), 5.0);
  EXPECT_EQ(median({9.0, 1.0}), 5.0);
  EXPECT_EQ(median({7.0}), 7.0);
  EXPECT_EQ(median({}), 0.0);
}

}  // namespace
}  // namespace sluice::bench
