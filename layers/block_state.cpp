#include "layers/block_state.h"

#include "autograd/ops/elementwise.h"

namespace sluice {

void BlockState::add_loss(Tape& tape, const AuxiliaryLoss& loss) {
  Tensor& sum = losses[static_cast<size_t>(loss.kind)];
  sum = sum.defined() ? add(tape, sum, loss.value) : loss.value;
}

}  // namespace sluice
