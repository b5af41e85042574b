#pragma once
// Arrays of which every number is -1, 0 or 1 times one number per matrix, five levels to a byte (MoTE, arXiv
// 2506.14435: 1.6 bits a weight). A checkpoint's file holds one under three paths in the place of its own:
//
//   packed/<path>/trits   u8 [E, ceil(n / 5)], the byte sum_i (t_i + 1) 3^i of five levels in order, the
//                         last byte filled up with zeros; n elements in a matrix
//   packed/<path>/scale   [E], g, in the type of the array
//   packed/<path>/shape   i64, the array's
//
// read_checkpoint gives the array back under its own path, with numbers of which `ternarise` (autograd/ops/
// ternary.h) makes the same levels and, to rounding, the same g: where m levels of n are not 0, g n / m.

#include <array>
#include <cstdint>
#include <string>

#include "autograd/core/state.h"

namespace sluice {

inline constexpr size_t kTritsPerByte = 5;
using Trits = std::array<int8_t, kTritsPerByte>;

[[nodiscard]] uint8_t pack_trits(const Trits& levels);
/// `code` below 243.
[[nodiscard]] Trits unpack_trits(uint8_t code);

/// Puts `levels` [E, ...], each of whose matrices has the values -g, 0 and g alone, into `state` in the place
/// of `path`. Throws InternalError for other values.
void put_packed(StateDict& state, const std::string& path, const StateArray& levels);
/// Puts every array that is packed back in its place. Throws CheckpointError, naming `source`, for parts that
/// do not go together.
void unpack_all(StateDict& state, const std::string& source);

}  // namespace sluice
