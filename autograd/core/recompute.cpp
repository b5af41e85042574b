#include "autograd/core/recompute.h"

namespace sluice::detail {

const OpInfo& recompute_info() {
  // Not an op of its own: what it computes is the block's, whose ops are checked one by one.
  static constexpr OpInfo kInfo{"recompute", "y = block(x)", nullptr, nullptr};
  return kInfo;
}

void recompute_backward(Backward& b, int64_t num_inputs, int64_t num_outputs,
                        FunctionRef<TensorList(Tape&, std::span<const Tensor>)> block) {
  Tape& tape = b.tape().child();
  tape.reset();
  const PhaseScope phase(tape, b.tape().phase());
  TensorList inputs;
  for (int i = 0; i < num_inputs; ++i) {
    inputs.push_back(b.needs(i) ? tape.input(b.saved(i)) : b.saved(i));
    // Starting from what was gathered so far keeps the order of additions of an ordinary backward.
    if (b.needs(i)) tape.seed_gradient(inputs[static_cast<size_t>(i)], b.take_gradient(i));
  }
  tape.set_recomputing(true);
  const TensorList outputs = block(tape, inputs);
  tape.set_recomputing(false);
  SLUICE_INTERNAL_CHECK(static_cast<int64_t>(outputs.size()) == num_outputs,
                        "recomputed block gave {} outputs, first {}", outputs.size(), num_outputs);
  TensorList grads;
  for (int i = 0; i < num_outputs; ++i) grads.push_back(b.has_grad(i) ? b.grad(i) : Tensor());
  tape.backward(outputs, grads);
  for (int i = 0; i < num_inputs; ++i) {
    if (b.needs(i)) b.put_gradient(i, tape.gradient(inputs[static_cast<size_t>(i)]));
  }
  tape.reset();
}

}  // namespace sluice::detail
