#include "layers/block_state.h"

#include <algorithm>

#include "autograd/ops/elementwise.h"
#include "autograd/support/error.h"

namespace sluice {

const Tensor* SideTensors::find(std::string_view name) const {
  const Entry* found = std::find_if(begin(), end(), [&](const Entry& e) { return e.name == name; });
  return found == end() ? nullptr : &found->tensor;
}

const Tensor& SideTensors::at(std::string_view name) const {
  const Tensor* found = find(name);
  SLUICE_INTERNAL_CHECK(found != nullptr, "no side tensor {}", name);
  return *found;
}

Tensor& SideTensors::operator[](std::string_view name) {
  for (Entry& entry : std::span(entries_).first(size_)) {
    if (entry.name == name) return entry.tensor;
  }
  SLUICE_INTERNAL_CHECK(size_ < kMaxSize, "more than {} side tensors", kMaxSize);
  entries_[size_].name = name;
  return entries_[size_++].tensor;
}

void BlockState::add_loss(Tape& tape, const AuxiliaryLoss& loss) {
  Tensor& sum = losses[static_cast<size_t>(loss.kind)];
  sum = sum.defined() ? add(tape, sum, loss.value) : loss.value;
}

}  // namespace sluice
