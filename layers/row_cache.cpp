#include "layers/row_cache.h"

#include <algorithm>
#include <vector>

#include "autograd/support/error.h"

namespace sluice {

void RowCache::append(const Tensor& rows) {
  SLUICE_CHECK(ShapeError, length_ + rows.dim(0) <= rows_.dim(0),
               "decoding: {} tokens do not fit a cache of {} that holds {}", rows.dim(0),
               rows_.dim(0), length_);
  SLUICE_INTERNAL_CHECK(
      rows.numel() * rows_.dim(0) == rows_.numel() * rows.dim(0) && rows.dtype() == rows_.dtype(),
      "rows {} for a cache {}", rows.shape(), rows_.shape());
  const int64_t row_bytes = rows_.dim(0) == 0 ? 0 : rows_.bytes() / rows_.dim(0);
  std::ranges::copy(rows.raw(), rows_.raw().begin() + length_ * row_bytes);
  length_ += rows.dim(0);
}

Tensor RowCache::filled(Pool& pool) const {
  std::vector<int64_t> dims(rows_.shape().dims().begin(), rows_.shape().dims().end());
  dims[0] = length_;
  Tensor result = Tensor::empty(pool, Shape(dims), rows_.dtype());
  std::ranges::copy(rows_.raw().first(result.raw().size()), result.raw().begin());
  return result;
}

}  // namespace sluice
