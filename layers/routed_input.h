#pragma once
// What the experts of a routed layer read, for observers that ask what they make of it.
//
//   void observe(const RoutingObservation& seen) override {
//     const RoutedInput& input = routed_input(seen);

#include "layers/routing.h"

namespace sluice {

/// The observation that RoutedLayer passes on. Its tensors live as long as the call.
struct RoutedInput : RoutingObservation {
  const Tensor& experts_read;  // [N, D]
  const Tensor& residual;      // [N, D], the stream that the layer's sublayer adds to
};

/// What stands beside an observation of a forward pass; a RoutingObservation made by anyone else has
/// no such thing.
[[nodiscard]] inline const RoutedInput& routed_input(const RoutingObservation& seen) {
  return static_cast<const RoutedInput&>(seen);
}

}  // namespace sluice
