#include "autograd/core/shape.h"

#include <fmt/ranges.h>

#include "autograd/support/error.h"

namespace sluice {

Shape::Shape(std::span<const int64_t> dims) {
  constexpr int64_t kMaxElements = int64_t{1} << 48;
  SLUICE_CHECK(ShapeError, dims.size() <= kMaxRank, "shape [{}] has {} dimensions, allowed {}",
               fmt::join(dims, ", "), dims.size(), kMaxRank);
  for (const int64_t dim : dims) {
    SLUICE_CHECK(ShapeError, dim >= 0, "shape [{}] has a negative size", fmt::join(dims, ", "));
    outer_ = numel_;
    int64_t product = 0;
    const bool overflow = __builtin_mul_overflow(numel_, dim, &product);
    SLUICE_CHECK(ShapeError, !overflow && product <= kMaxElements,
                 "shape [{}] has more than 2^48 elements", fmt::join(dims, ", "));
    numel_ = product;
    dims_[static_cast<size_t>(rank_++)] = dim;
  }
  // With a zero inside, the running product loses the outer sizes; rows() must still be exact.
  outer_ = 1;
  for (int i = 0; i + 1 < rank_; ++i) outer_ *= dims_[static_cast<size_t>(i)];
}

std::string Shape::to_string() const { return fmt::format("[{}]", fmt::join(dims(), ", ")); }

}  // namespace sluice
