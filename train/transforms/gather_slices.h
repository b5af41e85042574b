#pragma once
// Taking experts out of arrays, and putting copies in, along whatever axes run over experts.

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/core/state.h"

namespace sluice {

/// The slices index[0], index[1], ... of `array` along `axis`. Throws InternalError for an index outside
/// the array.
[[nodiscard]] StateArray gather_slices(const StateArray& array, size_t axis,
                                       std::span<const int64_t> index);

/// Whether resize_experts can: the axes are equal, or go from `experts` to `count`.
[[nodiscard]] bool can_resize_experts(std::span<const int64_t> from, std::span<const int64_t> like,
                                      int64_t experts, int64_t count);
/// `array` in the sizes of `like`: along every axis in which the two differ the slices `index`, of
/// `experts`. Throws InternalError when they differ otherwise (can_resize_experts).
[[nodiscard]] StateArray resize_experts(const StateArray& array, std::span<const int64_t> like,
                                        int64_t experts, std::span<const int64_t> index);

}  // namespace sluice
