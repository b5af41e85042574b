#pragma once
// How other programs store numbers: f32, IEEE half precision, bfloat16, and ggml's blocks of 32.
//
//   f16     1 sign, 5 exponent, 10 fraction bits
//   bf16    the upper half of an f32
//   q8_0    blocks of 32: f16 scale d, then 32 signed bytes q;             x = d q
//   q4_0    blocks of 32: f16 d, then 16 bytes of two nibbles q;           x = d (q - 8)
//   q4_1    blocks of 32: f16 d, f16 m, then 16 bytes of two nibbles q;    x = d q + m
//
// The low nibbles of a block are its elements 0 to 15, the high ones 16 to 31 (ggml's layout).
// Numbers are widened exactly, or as these equations say in f32; they are rounded to nearest, ties to
// even. q8_0 is written with d = max |x| / 127, rounded to f16, and q = round(127 x / max |x|), which
// ggml's own writer does (q by the unrounded d); where f16 has no such d but 0, all q are 0.

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace sluice {

enum class StoredType : uint8_t { f32, f16, bf16, q8_0, q4_0, q4_1 };

[[nodiscard]] std::string_view name_of(StoredType type);
/// Elements that are stored together: 1, or 32.
[[nodiscard]] int64_t block_elements(StoredType type);
/// Bytes of such a block.
[[nodiscard]] int64_t block_bytes(StoredType type);
/// Bytes of `count` elements, a multiple of block_elements.
[[nodiscard]] int64_t stored_bytes(StoredType type, int64_t count);

[[nodiscard]] float widened_half(uint16_t bits);
/// The nearest half: too large a number becomes an infinity, a NaN keeps what of its payload fits.
[[nodiscard]] uint16_t rounded_to_half(float x);

/// `stored` holds stored_bytes(type, values.size()) bytes; whole blocks.
void decode(StoredType type, std::span<const std::byte> stored, std::span<float> values);
/// The first of `values` that the type cannot hold: for f16 a finite one that would round to an infinity,
/// for q8_0 one that is not finite or whose block's scale would; nullopt without.
[[nodiscard]] std::optional<float> first_beyond_range(StoredType type,
                                                      std::span<const float> values);
/// For f32, f16, bf16 and q8_0, of values within its range. The same number always gives the same bytes.
void encode(StoredType type, std::span<const float> values, std::span<std::byte> stored);

}  // namespace sluice
