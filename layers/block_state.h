#pragma once
// What flows from block to block.

#include <array>
#include <map>
#include <string_view>

#include "layers/context.h"

namespace sluice {

/// The residual stream, the running sums of auxiliary losses, and named side tensors that later
/// blocks may read (keys and values to share, attention statistics, momentum). Recomputation treats
/// all of them as inputs and outputs.
struct BlockState {
  Tensor hidden;                            // [N, D]
  std::array<Tensor, kLossKinds> losses;    // one element each; undefined while nothing was added
  std::map<std::string_view, Tensor> side;  // keys are string literals

  void add_loss(Tape& tape, const AuxiliaryLoss& loss);
};

}  // namespace sluice
