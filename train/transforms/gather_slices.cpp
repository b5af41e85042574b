#include "train/transforms/gather_slices.h"

#include <algorithm>

#include "autograd/support/error.h"

namespace sluice {

StateArray gather_slices(const StateArray& array, size_t axis, std::span<const int64_t> index) {
  int64_t outer = 1;
  for (size_t i = 0; i < axis; ++i) outer *= array.dims[i];
  const int64_t count = array.dims[axis];
  StateArray result{array.type, array.dims, {}};
  result.dims[axis] = std::ssize(index);
  if (count == 0 || outer == 0) return result;
  const int64_t inner = std::ssize(array.bytes) / (outer * count);
  result.bytes.reserve(static_cast<size_t>(outer * inner) * index.size());
  for (int64_t o = 0; o < outer; ++o) {
    for (const int64_t i : index) {
      SLUICE_INTERNAL_CHECK(i >= 0 && i < count, "slice {} of {}", i, count);
      const auto first = array.bytes.begin() + (o * count + i) * inner;
      result.bytes.insert(result.bytes.end(), first, first + inner);
    }
  }
  return result;
}

bool can_resize_experts(std::span<const int64_t> from, std::span<const int64_t> like,
                        int64_t experts, int64_t count) {
  return std::ranges::equal(from, like, [&](int64_t there, int64_t here) {
    return there == here || (there == experts && here == count);
  });
}

StateArray resize_experts(const StateArray& array, std::span<const int64_t> like, int64_t experts,
                          std::span<const int64_t> index) {
  SLUICE_INTERNAL_CHECK(can_resize_experts(array.dims, like, experts, std::ssize(index)),
                        "an array of {} elements and {} axes does not go from {} to {} experts",
                        array.numel(), array.dims.size(), experts, index.size());
  StateArray result = array;
  for (size_t axis = 0; axis < like.size(); ++axis) {
    if (result.dims[axis] != like[axis]) result = gather_slices(result, axis, index);
  }
  return result;
}

}  // namespace sluice
