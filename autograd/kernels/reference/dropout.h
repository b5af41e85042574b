#pragma once
// Random factors sequence by sequence, element by element.

#include <vector>

#include "autograd/kernels/dropout.h"

namespace sluice::kernels::reference {

/// The 32 random bits of every element, [rows, cols].
inline std::vector<uint32_t> element_bits(int64_t cols, const RowStreams& streams) {
  std::vector<uint32_t> result;
  for (int64_t s = 0; s < streams.sequences; ++s) {
    const int64_t length = streams.sequence_offsets[s + 1] - streams.sequence_offsets[s];
    for (int64_t position = 0; position < length; ++position) {
      for (int64_t col = 0; col < cols; ++col) {
        const auto index = static_cast<uint64_t>(position * ((cols + 3) / 4) + col / 4);
        result.push_back(
            random_bits(streams.key, streams.samples[s], index)[static_cast<size_t>(col % 4)]);
      }
    }
  }
  return result;
}

template <class T>
void dropout(int64_t cols, const RowStreams& streams, double probability, const T* x,
             const Gradient<T>& y) {
  const std::vector<uint32_t> bits = element_bits(cols, streams);
  put_gradient(y, static_cast<int64_t>(bits.size()), [&](int64_t i) {
    const double uniform = bits[static_cast<size_t>(i)] / 4294967296.0;
    return uniform >= probability ? x[i] * static_cast<T>(1 / (1 - probability)) : T{0};
  });
}

template <class T>
void jitter(int64_t cols, const RowStreams& streams, double epsilon, const T* x,
            const Gradient<T>& y) {
  const std::vector<uint32_t> bits = element_bits(cols, streams);
  put_gradient(y, static_cast<int64_t>(bits.size()), [&](int64_t i) {
    const double uniform = bits[static_cast<size_t>(i)] / 4294967296.0;
    return x[i] * static_cast<T>((1 - epsilon) * (1 - uniform) + (1 + epsilon) * uniform);
  });
}

}  // namespace sluice::kernels::reference
