#pragma once
// Activation recomputation: a block keeps its inputs only, and is computed again when its backward
// comes.
//
//   auto outputs = recompute(tape, inputs, [this, &context](Tape& t, std::span<const Tensor> x) {
//     return std::vector<Tensor>{forward_on(t, context, x[0])};
//   });
//
// `block` runs once without recording (forward) and once on a child tape with Tape::recomputing()
// true (backward). It is copied into the arena, so it captures only pointers, references and
// numbers, and what they refer to must live until backward() has run. It must compute the same bits
// twice: random numbers come from counters, and selections are recorded and replayed, never made
// again. Gradients are added in the order in which they would be without recomputation, so
// switching it on changes no bit. Chen, Xu, Zhang, Guestrin 2016, "Training deep nets with
// sublinear memory cost".

#include <span>
#include <vector>

#include "autograd/core/tape.h"
#include "autograd/support/function_ref.h"

namespace sluice {

namespace detail {

[[nodiscard]] const OpInfo& recompute_info();
void recompute_backward(Backward& b, int64_t num_inputs, int64_t num_outputs,
                        FunctionRef<std::vector<Tensor>(Tape&, std::span<const Tensor>)> block);

}  // namespace detail

/// See the head of this file. Returns block(tape, inputs).
template <class Block>
[[nodiscard]] std::vector<Tensor> recompute(Tape& tape, std::span<const Tensor> inputs,
                                            Block block) {
  static_assert(std::is_trivially_destructible_v<Block>, "the block lives in the tape's arena");
  if (!tape.recording()) return block(tape, inputs);
  std::vector<Tensor> outputs;
  {
    const NoGrad no_grad(tape);
    outputs = block(tape, inputs);
  }
  std::vector<Tensor*> output_pointers;
  for (Tensor& output : outputs) {
    // An output that is one of the inputs would otherwise keep the input's place on the tape.
    output = output.detached();
    output_pointers.push_back(&output);
  }
  const auto num_inputs = static_cast<int64_t>(inputs.size());
  const auto num_outputs = static_cast<int64_t>(outputs.size());
  tape.record_always(detail::recompute_info(), inputs, output_pointers, inputs,
                     [block, num_inputs, num_outputs](Backward& b) {
                       detail::recompute_backward(b, num_inputs, num_outputs, block);
                     });
  return outputs;
}

}  // namespace sluice
