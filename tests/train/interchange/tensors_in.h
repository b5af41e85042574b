#pragma once
// The tensors of an exported model, to be written again, changed.

#include <algorithm>
#include <filesystem>
#include <vector>

#include "train/interchange/safetensors.h"

namespace sluice::testing {

/// Their elements are read now: the files may be overwritten.
inline std::vector<TensorToWrite> tensors_in(const std::filesystem::path& folder) {
  const TensorFiles files = open_safetensors(folder);
  std::vector<TensorToWrite> tensors;
  for (const auto& [name, tensor] : files.tensors()) {
    std::vector<float> values(static_cast<size_t>(tensor.numel()));
    files.read(tensor, 0, values);
    tensors.push_back({name, tensor.type, tensor.dims,
                       [values](std::span<float> out) { std::ranges::copy(values, out.begin()); }});
  }
  return tensors;
}

/// The elements of one.
inline std::vector<float> elements_of(const TensorToWrite& tensor) {
  std::vector<float> values(static_cast<size_t>(checked_numel(tensor.dims).value_or(0)));
  tensor.fill(values);
  return values;
}

}  // namespace sluice::testing
