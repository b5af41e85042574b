#pragma once
// Activation recomputation: a block keeps its inputs only, and is computed again when its backward
// comes.
//
//   auto outputs = recompute(tape, inputs, [this, &context](Tape& t, std::span<const Tensor> x) {
//     return TensorList{forward_on(t, context, x[0])};
//   });
//
// `block` runs once without recording (forward) and once on a child tape with Tape::recomputing()
// true (backward). It is copied into the arena, so it captures only pointers, references and
// numbers, and what they refer to must live until backward() has run. It must compute the same bits
// twice: random numbers come from counters, and selections are recorded and replayed, never made
// again. Gradients are added in the order in which they would be without recomputation, so
// switching it on changes no bit. Chen, Xu, Zhang, Guestrin 2016, "Training deep nets with
// sublinear memory cost".

#include <array>
#include <initializer_list>
#include <span>
#include <utility>

#include "autograd/core/tape.h"
#include "autograd/support/function_ref.h"

namespace sluice {

/// The inputs or outputs of a block: a few tensors, held inline, since a block runs in every step
/// and a step allocates nothing.
class TensorList {
 public:
  static constexpr size_t kMaxSize = 16;

  TensorList() = default;
  TensorList(std::initializer_list<Tensor> tensors) {
    for (const Tensor& tensor : tensors) push_back(tensor);
  }
  void push_back(Tensor tensor) {
    SLUICE_INTERNAL_CHECK(size_ < kMaxSize, "a block of more than {} tensors", kMaxSize);
    tensors_[size_++] = std::move(tensor);
  }
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] Tensor& operator[](size_t i) { return tensors_[i]; }
  [[nodiscard]] const Tensor& operator[](size_t i) const { return tensors_[i]; }
  [[nodiscard]] Tensor* begin() { return tensors_.data(); }
  [[nodiscard]] Tensor* end() { return tensors_.data() + size_; }
  [[nodiscard]] const Tensor* begin() const { return tensors_.data(); }
  [[nodiscard]] const Tensor* end() const { return tensors_.data() + size_; }

 private:
  std::array<Tensor, kMaxSize> tensors_;
  size_t size_ = 0;
};

namespace detail {

[[nodiscard]] const OpInfo& recompute_info();
void recompute_backward(Backward& b, int64_t num_inputs, int64_t num_outputs,
                        FunctionRef<TensorList(Tape&, std::span<const Tensor>)> block);

}  // namespace detail

/// See the head of this file. Returns block(tape, inputs).
template <class Block>
[[nodiscard]] TensorList recompute(Tape& tape, std::span<const Tensor> inputs, Block block) {
  static_assert(std::is_trivially_destructible_v<Block>, "the block lives in the tape's arena");
  if (!tape.recording()) return block(tape, inputs);
  TensorList outputs;
  {
    const NoGrad no_grad(tape);
    outputs = block(tape, inputs);
  }
  std::array<Tensor*, TensorList::kMaxSize> output_pointers{};
  for (size_t i = 0; i < outputs.size(); ++i) {
    // An output that is one of the inputs would otherwise keep the input's place on the tape.
    outputs[i] = outputs[i].detached();
    output_pointers[i] = &outputs[i];
  }
  const auto num_inputs = static_cast<int64_t>(inputs.size());
  const auto num_outputs = static_cast<int64_t>(outputs.size());
  tape.record_always(detail::recompute_info(), inputs,
                     std::span(output_pointers).first(outputs.size()), inputs,
                     [block, num_inputs, num_outputs](Backward& b) {
                       detail::recompute_backward(b, num_inputs, num_outputs, block);
                     });
  return outputs;
}

}  // namespace sluice
