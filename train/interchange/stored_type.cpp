#include "train/interchange/stored_type.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

#include "autograd/support/bfloat16.h"
#include "autograd/support/error.h"

namespace sluice {
namespace {

constexpr int64_t kBlock = 32;
constexpr float kSteps = 127.0f;           // of q8_0, on either side of 0
constexpr float kGreatestHalf = 65520.0f;  // rounds to infinity from here on

template <class T>
T load(const std::byte* from) {
  T value;
  std::memcpy(&value, from, sizeof(T));
  return value;
}
template <class T>
void store(std::byte* to, T value) {
  std::memcpy(to, &value, sizeof(T));
}

/// Calls body(block of `stored`, its 32 elements).
template <class Byte, class Float, class Body>
void for_each_block(StoredType type, std::span<Byte> stored, std::span<Float> values, Body&& body) {
  const auto bytes = static_cast<size_t>(block_bytes(type));
  for (size_t i = 0; i * kBlock < values.size(); ++i) {
    body(stored.data() + i * bytes, values.data() + i * kBlock);
  }
}

/// value_of(nibble) of each.
template <class ValueOf>
void decode_nibbles(const std::byte* packed, float* values, ValueOf&& value_of) {
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    const auto pair = static_cast<uint32_t>(packed[i]);
    values[i] = value_of(static_cast<float>(pair & 15U));
    values[i + kBlock / 2] = value_of(static_cast<float>(pair >> 4U));
  }
}

/// bf16, of which a NaN keeps every bit that it has room for.
uint16_t rounded_to_upper_half(float x) {
  const auto upper = static_cast<uint16_t>(std::bit_cast<uint32_t>(x) >> 16U);
  const bool is_nan = (upper & 0x7fffU) > 0x7f80U;
  return is_nan ? upper : rounded_to_bf16(x).bits;
}

void encode_q8_0(const float* values, std::byte* block) {
  float greatest = 0.0f;
  for (int64_t i = 0; i < kBlock; ++i) greatest = std::max(greatest, std::abs(values[i]));
  const float scale = greatest / kSteps;
  const uint16_t stored_scale = rounded_to_half(scale);
  const float inverse = stored_scale == 0 ? 0.0f : 1.0f / scale;
  store(block, stored_scale);
  for (int64_t i = 0; i < kBlock; ++i) {
    store(block + 2 + i, static_cast<int8_t>(std::nearbyint(values[i] * inverse)));
  }
}

}  // namespace

std::string_view name_of(StoredType type) {
  switch (type) {
    case StoredType::f32:
      return "f32";
    case StoredType::f16:
      return "f16";
    case StoredType::bf16:
      return "bf16";
    case StoredType::q8_0:
      return "q8_0";
    case StoredType::q4_0:
      return "q4_0";
    case StoredType::q4_1:
      return "q4_1";
  }
  return "?";
}

int64_t block_elements(StoredType type) {
  const bool is_plain =
      type == StoredType::f32 || type == StoredType::f16 || type == StoredType::bf16;
  return is_plain ? 1 : kBlock;
}

int64_t block_bytes(StoredType type) {
  switch (type) {
    case StoredType::f32:
      return 4;
    case StoredType::f16:
    case StoredType::bf16:
      return 2;
    case StoredType::q8_0:
      return 2 + kBlock;
    case StoredType::q4_0:
      return 2 + kBlock / 2;
    case StoredType::q4_1:
      return 4 + kBlock / 2;
  }
  return 0;
}

int64_t stored_bytes(StoredType type, int64_t count) {
  SLUICE_INTERNAL_CHECK(count % block_elements(type) == 0, "{} elements are no whole blocks",
                        count);
  return count / block_elements(type) * block_bytes(type);
}

float widened_half(uint16_t bits) {
  const uint32_t sign = (bits & 0x8000U) << 16U;
  const uint32_t exponent = (bits >> 10U) & 31U;
  const uint32_t fraction = bits & 0x3ffU;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | (fraction << 13U));
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112U) << 23U) | (fraction << 13U));
  // Zero or subnormal: fraction times 2^-24, exactly.
  const float magnitude = static_cast<float>(fraction) * 0x1p-24f;
  return sign != 0 ? -magnitude : magnitude;
}

uint16_t rounded_to_half(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const auto sign = static_cast<uint16_t>((bits >> 16U) & 0x8000U);
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {
    const uint32_t payload = (magnitude >> 13U) & 0x3ffU;
    return static_cast<uint16_t>(sign | 0x7c00U | (payload == 0 ? 0x200U : payload));
  }
  if (magnitude < 0x38800000U) {  // below 2^-14: a multiple of 2^-24
    const float scaled = std::bit_cast<float>(magnitude) * 0x1p24f;
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(scaled)));
  }
  const uint32_t rounded = magnitude + 0xfffU + ((magnitude >> 13U) & 1U);
  constexpr uint32_t kTooLarge = 0x47800000U;  // 2^16
  if (rounded >= kTooLarge) return static_cast<uint16_t>(sign | 0x7c00U);
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13U));
}

void decode(StoredType type, std::span<const std::byte> stored, std::span<float> values) {
  switch (type) {
    case StoredType::f32:
      std::memcpy(values.data(), stored.data(), values.size_bytes());
      return;
    case StoredType::f16:
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = widened_half(load<uint16_t>(stored.data() + 2 * i));
      }
      return;
    case StoredType::bf16:
      for (size_t i = 0; i < values.size(); ++i) {
        values[i] = widened(BFloat16{load<uint16_t>(stored.data() + 2 * i)});
      }
      return;
    case StoredType::q8_0:
      for_each_block(type, stored, values, [](const std::byte* block, float* out) {
        const float scale = widened_half(load<uint16_t>(block));
        for (int64_t i = 0; i < kBlock; ++i) {
          out[i] = scale * static_cast<float>(load<int8_t>(block + 2 + i));
        }
      });
      return;
    case StoredType::q4_0:
      for_each_block(type, stored, values, [](const std::byte* block, float* out) {
        const float scale = widened_half(load<uint16_t>(block));
        decode_nibbles(block + 2, out, [scale](float q) { return scale * (q - 8.0f); });
      });
      return;
    case StoredType::q4_1:
      for_each_block(type, stored, values, [](const std::byte* block, float* out) {
        const float scale = widened_half(load<uint16_t>(block));
        const float offset = widened_half(load<uint16_t>(block + 2));
        decode_nibbles(block + 4, out, [=](float q) { return scale * q + offset; });
      });
      return;
  }
}

std::optional<float> first_beyond_range(StoredType type, std::span<const float> values) {
  const auto is_beyond = [&](float x) {
    if (type == StoredType::f16) return std::isfinite(x) && std::abs(x) >= kGreatestHalf;
    return type == StoredType::q8_0 &&
           !(std::abs(x) / kSteps < kGreatestHalf);  // a NaN is no less than anything
  };
  const auto found = std::ranges::find_if(values, is_beyond);
  return found == values.end() ? std::nullopt : std::optional(*found);
}

void encode(StoredType type, std::span<const float> values, std::span<std::byte> stored) {
  switch (type) {
    case StoredType::f32:
      std::memcpy(stored.data(), values.data(), values.size_bytes());
      return;
    case StoredType::f16:
      for (size_t i = 0; i < values.size(); ++i) {
        store(stored.data() + 2 * i, rounded_to_half(values[i]));
      }
      return;
    case StoredType::bf16:
      for (size_t i = 0; i < values.size(); ++i) {
        store(stored.data() + 2 * i, rounded_to_upper_half(values[i]));
      }
      return;
    case StoredType::q8_0:
      for_each_block(type, stored, values,
                     [](std::byte* block, const float* in) { encode_q8_0(in, block); });
      return;
    case StoredType::q4_0:
    case StoredType::q4_1:
      break;
  }
  SLUICE_INTERNAL_CHECK(false, "{} is not written", name_of(type));
}

}  // namespace sluice
