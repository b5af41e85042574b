#include "autograd/support/bfloat16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace sluice {
namespace {

float rounded(float x) { return widened(rounded_to_bf16(x)); }

TEST(BFloat16, KeepsWhatItCanHold) {
  for (const float x : {0.0F, -0.0F, 1.0F, -1.5F, 255.0F, 0x1p-126F, 0x1p-133F}) {
    EXPECT_EQ(rounded(x), x);
    EXPECT_EQ(std::signbit(rounded(x)), std::signbit(x));
  }
}

TEST(BFloat16, RoundsToTheNearestAndFromTheMiddleToEven) {
  // Eight bits of significand: numbers from 1 to 2 are 2^-7 apart.
  EXPECT_EQ(rounded(1.0F + 0x1p-8F), 1.0F);                      // in the middle; 1 is even
  EXPECT_EQ(rounded(1.0F + 0x1p-7F + 0x1p-8F), 1.0F + 0x1p-6F);  // in the middle; the upper is even
  EXPECT_EQ(rounded(1.0F + 0x1p-8F + 0x1p-20F), 1.0F + 0x1p-7F);
  EXPECT_EQ(rounded(1.0F + 0x1p-8F - 0x1p-20F), 1.0F);
  EXPECT_EQ(rounded(-1.0F - 0x1p-7F - 0x1p-8F), -1.0F - 0x1p-6F);
}

TEST(BFloat16, IsInfiniteBeyondItsRangeAndKeepsNaN) {
  EXPECT_EQ(rounded(std::numeric_limits<float>::max()), std::numeric_limits<float>::infinity());
  EXPECT_EQ(rounded(-std::numeric_limits<float>::infinity()),
            -std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnan(rounded(std::numeric_limits<float>::quiet_NaN())));
  // A payload in the lower half alone.
  EXPECT_TRUE(std::isnan(rounded(std::bit_cast<float>(0x7f800001U))));
}

}  // namespace
}  // namespace sluice
