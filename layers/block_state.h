#pragma once
// What flows from block to block.

#include <array>
#include <string_view>

#include "layers/context.h"

namespace sluice {

/// Tensors by name, in the order in which they came: a few, held inline.
class SideTensors {
 public:
  static constexpr size_t kMaxSize = 16;
  struct Entry {
    std::string_view name;  // outlives the pass
    Tensor tensor;
  };

  /// The tensor of this name, a new undefined one when there is none.
  [[nodiscard]] Tensor& operator[](std::string_view name);
  /// Null when there is none.
  [[nodiscard]] const Tensor* find(std::string_view name) const;
  /// Throws InternalError when there is none.
  [[nodiscard]] const Tensor& at(std::string_view name) const;
  [[nodiscard]] size_t size() const { return size_; }
  [[nodiscard]] const Entry* begin() const { return entries_.data(); }
  [[nodiscard]] const Entry* end() const { return entries_.data() + size_; }

 private:
  std::array<Entry, kMaxSize> entries_;
  size_t size_ = 0;
};

/// The residual stream, the running sums of auxiliary losses, and named side tensors that later
/// blocks may read (attention statistics, momentum; within a group of adaptive depth, keys and values
/// of its first pass). Recomputation treats all of them as inputs and outputs.
struct BlockState {
  Tensor hidden;                          // [N, D]
  std::array<Tensor, kLossKinds> losses;  // one element each; undefined while nothing was added
  SideTensors side;
  SideTensors key_values;  // key_value_sharing.h

  void add_loss(Tape& tape, const AuxiliaryLoss& loss);
};

}  // namespace sluice
