#pragma once
// train.freeze_experts: experts that stay as they are while the others of their layer are trained, although
// their weights lie in the same tensors.
//
// Frozen are slice e of every stack of routed experts, and of routers that have a row per expert the row
// and the bias. Their gradients are zero before the gradient's norm is taken, and what an optimizer makes of
// them all the same (weight decay, momentum) is taken back, bit for bit.

#include <cstdint>
#include <span>
#include <vector>

#include "autograd/core/parameter.h"

namespace sluice {

class FrozenExperts {
 public:
  /// Throws ConfigError when no stack has these experts: `experts` are numbers from 0 that every layer of
  /// experts must have, without all of one layer's.
  FrozenExperts(std::span<Parameter* const> parameters, std::span<const int64_t> experts);

  [[nodiscard]] bool empty() const { return slices_.empty(); }
  void clear_gradients() const;
  /// Before and after an optimizer's step.
  void save();
  void restore() const;

 private:
  struct Slice {
    Parameter* parameter;
    size_t begin;  // bytes of the value
    size_t size;
    size_t kept;  // where in kept_
  };
  std::vector<Slice> slices_;
  std::vector<std::byte> kept_;
};

}  // namespace sluice
