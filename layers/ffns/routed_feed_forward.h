#pragma once
// For feed-forwards that route once and keep nothing between decoding steps but what their router does.

#include <memory>
#include <vector>

#include "layers/routed_layer.h"
#include "layers/sublayer.h"

namespace sluice {

class RoutedFeedForward : public FeedForward {
 public:
  [[nodiscard]] std::vector<RoutedLayer*> routed_layers() final { return {routed_}; }

  [[nodiscard]] std::unique_ptr<FeedForwardState> make_state(Pool& pool, DType dtype,
                                                             int64_t capacity) const final {
    return routed_->make_state(pool, dtype, capacity);
  }

 protected:
  RoutedLayer* routed_ = nullptr;  // a child that the constructor of the layer registers
};

}  // namespace sluice
