#pragma once
// For ops whose forward computes their gradients already: the backward only scales them.

#include <array>

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

/// Room for the gradient of `input`; undefined where none is wanted.
[[nodiscard]] inline Tensor early_gradient(Tape& tape, const Tensor& input) {
  return tape.requires_grad(input) ? tape.empty(input.shape(), input.dtype()) : Tensor();
}

/// Records a one-element output whose forward filled `gradients`, early_gradient() of each input.
inline void record_scaled(Tape& tape, const OpInfo& op, const std::array<Tensor, 2>& inputs,
                          Tensor& output, const std::array<Tensor, 2>& gradients) {
  const std::array<Tensor*, 1> outputs{&output};
  tape.record(op, std::span<const Tensor>(inputs), std::span<Tensor* const>(outputs),
              std::span<const Tensor>(gradients), [](Backward& b) {
                const double upstream = b.grad(0).item();
                for (int input = 0; input < 2; ++input) {
                  if (b.needs(input)) put_scaled(b, input, b.saved(input), upstream);
                }
              });
}

}  // namespace sluice
