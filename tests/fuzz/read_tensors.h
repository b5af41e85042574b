#pragma once
// What a fuzz target does with tensors that were found.

#include <algorithm>
#include <vector>

#include "train/interchange/tensor_files.h"

namespace sluice::testing {

/// Reads the beginning and the end of every tensor.
inline void read_tensors(const TensorFiles& files) {
  constexpr int64_t kMost = 1000;
  for (const auto& [name, tensor] : files.tensors()) {
    std::vector<float> values(static_cast<size_t>(std::min(kMost, tensor.numel())));
    files.read(tensor, 0, values);
    files.read(tensor, tensor.numel() - std::ssize(values), values);
  }
}

}  // namespace sluice::testing
