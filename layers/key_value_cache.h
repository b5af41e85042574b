#pragma once
// What attention keeps of one sequence while it is decoded.

#include "layers/row_cache.h"
#include "layers/sublayer.h"

namespace sluice {

/// Keys after rotation and values of every token so far, in order.
class KeyValueCache : public MixerState {
 public:
  KeyValueCache(Pool& pool, const Shape& shape, DType dtype)
      : keys(pool, shape, dtype), values(pool, shape, dtype) {}
  [[nodiscard]] int64_t length() const override { return keys.length(); }

  RowCache keys;    // [capacity, K, P]
  RowCache values;  // [capacity, K, P]
};

}  // namespace sluice
