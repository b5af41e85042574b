#pragma once
// For ops whose forward computes their gradients already: the backward only scales them.

#include "autograd/kernels/elementwise.h"
#include "autograd/ops/common.h"

namespace sluice {

/// Adds upstream * computed to the gradient of input `input`.
inline void put_scaled(Backward& b, int input, const Tensor& computed, double upstream) {
  if (upstream == 1.0) {
    b.pass(input, computed);
    return;
  }
  GradTarget target = b.target(input);
  b.run(moving({computed, target.tensor}), [&] {
    dispatch_float(computed.dtype(), [&]<class T>() {
      kernels::put_scaled<T>(computed.numel(), static_cast<T>(upstream), computed.data<T>(),
                             gradient<T>(target));
    });
  });
}

}  // namespace sluice
