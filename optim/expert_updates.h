#pragma once
// How the routed experts share a step: whose gradient is how large, and how far each one's weights
// move.
//
//   ExpertUpdateWatch watch(parameters, pool);      // gradients are ready
//   optimizer.step(progress, scale);
//   const std::vector<ExpertUpdates> stacks = watch.finish();
//
// A stack are the parameters [E, ...] of one module with routed experts (layers.3.experts), in the
// order of the model: one per expert layer, fewer where layers share a pool of experts. Norms are
// over all of an expert's weights, added in f64 in a fixed order. Costs a copy of the experts'
// weights from the pool, at a time when activations have been returned to it.

#include <span>
#include <string>
#include <vector>

#include "autograd/core/parameter.h"

namespace sluice {

struct ExpertUpdates {
  std::string stack;  // "layers.3.experts"
  /// [E]: norm of the expert's gradient over the sum of these norms; before clipping, which scales
  /// all alike. Zeros when no gradient reached the stack.
  std::vector<double> gradient_share;
  /// [E]: ||w after - w before|| / ||w before||, weight decay included; 0 for weights of zero.
  std::vector<double> update_ratio;
};

class ExpertUpdateWatch {
 public:
  /// Reads the gradients and copies the weights of trainable, replicated stacks; others are left
  /// out, since one rank sees but a part of them.
  ExpertUpdateWatch(std::span<Parameter* const> parameters, Pool& pool);
  /// After the update; once.
  [[nodiscard]] std::vector<ExpertUpdates> finish();

 private:
  struct Watched {
    std::string name;
    std::vector<const Parameter*> parameters;
    std::vector<Tensor> before;            // as parameters
    std::vector<double> gradient_squares;  // [E]
  };
  std::vector<Watched> stacks_;
};

}  // namespace sluice
