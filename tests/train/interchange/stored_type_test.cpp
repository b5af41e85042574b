#include "train/interchange/stored_type.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace sluice {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

std::vector<float> decoded(StoredType type, const std::vector<std::byte>& stored, size_t count) {
  std::vector<float> values(count);
  decode(type, stored, values);
  return values;
}
std::vector<std::byte> encoded(StoredType type, const std::vector<float>& values) {
  std::vector<std::byte> stored(
      static_cast<size_t>(stored_bytes(type, static_cast<int64_t>(values.size()))));
  encode(type, values, stored);
  return stored;
}

TEST(StoredType, WidensHalves) {
  EXPECT_EQ(widened_half(0x3C00), 1.0f);
  EXPECT_EQ(widened_half(0xC000), -2.0f);
  EXPECT_EQ(widened_half(0x7BFF), 65504.0f);
  EXPECT_EQ(widened_half(0x0001), 0x1p-24f);
  EXPECT_EQ(widened_half(0x03FF), 1023.0f * 0x1p-24f);
  EXPECT_EQ(widened_half(0x0400), 0x1p-14f);
  EXPECT_EQ(widened_half(0x7C00), kInfinity);
  EXPECT_TRUE(std::isnan(widened_half(0x7E01)));
  EXPECT_TRUE(std::signbit(widened_half(0x8000)));
}

TEST(StoredType, EveryHalfSurvivesWidening) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    EXPECT_EQ(rounded_to_half(widened_half(static_cast<uint16_t>(bits))), bits);
  }
}

TEST(StoredType, EveryBfloat16SurvivesWidening) {
  std::vector<std::byte> all;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    all.push_back(static_cast<std::byte>(bits & 0xFFU));
    all.push_back(static_cast<std::byte>(bits >> 8U));
  }
  EXPECT_TRUE(encoded(StoredType::bf16, decoded(StoredType::bf16, all, 0x10000)) == all);
}

TEST(StoredType, ANanStaysOneWhateverOfItsPayloadIsLost) {
  for (const uint32_t bits : {0x7f800001U, 0xff801fffU, 0x7fffffffU, 0x7fc00000U}) {
    const auto nan = std::bit_cast<float>(bits);
    for (const StoredType type : {StoredType::f16, StoredType::bf16}) {
      const float back = decoded(type, encoded(type, {nan}), 1)[0];
      EXPECT_TRUE(std::isnan(back)) << bits;
      EXPECT_EQ(std::signbit(back), std::signbit(nan)) << bits;
    }
  }
}

TEST(StoredType, RoundsHalvesToNearestEven) {
  // Halfway between every two neighbours, and the numbers on both sides of that.
  for (uint32_t bits = 0; bits < 0x7BFF; ++bits) {
    const float low = widened_half(static_cast<uint16_t>(bits));
    const float high = widened_half(static_cast<uint16_t>(bits + 1));
    const float middle = low + (high - low) / 2.0f;
    EXPECT_EQ(rounded_to_half(middle), bits % 2 == 0 ? bits : bits + 1) << low;
    EXPECT_EQ(rounded_to_half(std::nextafter(middle, -kInfinity)), bits) << low;
    EXPECT_EQ(rounded_to_half(std::nextafter(middle, kInfinity)), bits + 1) << low;
  }
  EXPECT_EQ(rounded_to_half(65519.99f), 0x7BFF);
  EXPECT_EQ(rounded_to_half(65520.0f), 0x7C00);
  EXPECT_EQ(rounded_to_half(-1e30f), 0xFC00);
  EXPECT_EQ(rounded_to_half(-1e-30f), 0x8000);
}

TEST(StoredType, Bfloat16IsTheUpperHalf) {
  const std::vector<float> values = {1.0f, -0.15625f, 3.0e38f, 1.00390625f};
  // The last lies halfway between two: the even one is 1.
  const auto back = decoded(StoredType::bf16, encoded(StoredType::bf16, values), 4);
  EXPECT_EQ(back[0], 1.0f);
  EXPECT_EQ(back[1], -0.15625f);
  EXPECT_NEAR(back[2], 3.0e38f, 2e36f);
  EXPECT_EQ(back[3], 1.0f);
}

TEST(StoredType, BlocksOfFourBitsAreReadInTheirOrder) {
  std::vector<std::byte> block(18, std::byte{0});
  block[1] = std::byte{0x40};   // d = 2
  block[2] = std::byte{0x9F};   // element 0: 15, element 16: 9
  block[17] = std::byte{0x08};  // element 15: 8, element 31: 0
  const auto q4_0 = decoded(StoredType::q4_0, block, 32);
  EXPECT_EQ(q4_0[0], 14.0f);
  EXPECT_EQ(q4_0[16], 2.0f);
  EXPECT_EQ(q4_0[15], 0.0f);
  EXPECT_EQ(q4_0[31], -16.0f);
  std::vector<std::byte> with_offset(20, std::byte{0});
  with_offset[1] = std::byte{0x40};  // d = 2
  with_offset[3] = std::byte{0x3C};  // m = 1
  with_offset[4] = std::byte{0x9F};
  const auto q4_1 = decoded(StoredType::q4_1, with_offset, 32);
  EXPECT_EQ(q4_1[0], 31.0f);
  EXPECT_EQ(q4_1[16], 19.0f);
  EXPECT_EQ(q4_1[1], 1.0f);
}

TEST(StoredType, BlocksOfEightBitsKeepAHundredAndTwentySeventhOfTheirLargest) {
  std::vector<float> values(64);
  for (size_t i = 0; i < values.size(); ++i) values[i] = std::sin(static_cast<float>(i));
  std::fill(values.begin() + 32, values.end(), 0.0f);  // a block of zeros has scale 0
  const auto stored = encoded(StoredType::q8_0, values);
  const auto back = decoded(StoredType::q8_0, stored, 64);
  for (size_t i = 0; i < 32; ++i) EXPECT_NEAR(back[i], values[i], 0.5f / 127.0f + 1e-3f);
  for (size_t i = 32; i < 64; ++i) EXPECT_EQ(back[i], 0.0f);
  EXPECT_EQ(encoded(StoredType::q8_0, back), stored);
}

TEST(StoredType, BlocksOfEightBitsHoldTheLeastNumbersAndTheGreatest) {
  // Of the smallest the scale is 0 in f16, and its inverse infinite in f32.
  for (const float greatest : {0x1p-149f, 1e-38f, 3e-37f, 1e-9f, 3.7e-6f, 4e-6f, 1.0f, 8.32e6f}) {
    std::vector<float> values(32);
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = greatest * (static_cast<float>(i) - 15.5f) / 15.5f;
    }
    ASSERT_FALSE(first_beyond_range(StoredType::q8_0, values).has_value()) << greatest;
    const auto stored = encoded(StoredType::q8_0, values);
    const auto back = decoded(StoredType::q8_0, stored, 32);
    // Half a step of q, and what f16 rounds off the scale: 2^-11 of it, or 2^-25.
    const float error = greatest / 254.0f + greatest * 0x1p-11f + 127.0f * 0x1p-25f;
    for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(back[i], values[i], error) << greatest;
    EXPECT_EQ(encoded(StoredType::q8_0, back), stored) << greatest;
  }
}

TEST(StoredType, SaysWhatItCannotHold) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  const auto is_beyond = [](StoredType type, float value) {
    return first_beyond_range(type, std::vector<float>{0.0f, value}).has_value();
  };
  for (const float value : {kNan, kInfinity, -kInfinity}) {
    EXPECT_TRUE(is_beyond(StoredType::q8_0, value));
    EXPECT_FALSE(is_beyond(StoredType::f16, value));
    EXPECT_FALSE(is_beyond(StoredType::bf16, value));
  }
  EXPECT_TRUE(is_beyond(StoredType::f16, -65520.0f));
  EXPECT_FALSE(is_beyond(StoredType::f16, 65519.0f));
  EXPECT_TRUE(is_beyond(StoredType::q8_0, 8321040.0f));
  EXPECT_FALSE(is_beyond(StoredType::q8_0, -8321039.0f));
  EXPECT_FALSE(is_beyond(StoredType::bf16, 3e38f));
}

}  // namespace
}  // namespace sluice
