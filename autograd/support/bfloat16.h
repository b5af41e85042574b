#pragma once
// bfloat16: the upper half of an f32 (8 bits of exponent, 8 of significand with the hidden one). A
// storage type: numbers are widened to f32, exactly, before anything is computed with them.

#include <bit>
#include <cstdint>

namespace sluice {

struct BFloat16 {
  uint16_t bits;
};

[[nodiscard]] inline float widened(BFloat16 x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

/// The nearest bfloat16, of two equally near ones the even one; too large a number becomes an infinity,
/// a NaN stays one.
[[nodiscard]] inline BFloat16 rounded_to_bf16(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  constexpr uint32_t kInfinity = 0x7f800000U;
  constexpr uint32_t kQuiet = 0x0040U;
  const bool is_nan = (bits & 0x7fffffffU) > kInfinity;
  const uint32_t nan = (bits >> 16) | kQuiet;  // dropping payload bits could leave an infinity
  const uint32_t half = 0x7fffU + ((bits >> 16) & 1U);
  return {static_cast<uint16_t>(is_nan ? nan : (bits + half) >> 16)};
}

}  // namespace sluice
