#pragma once
// Dropout element by element.

#include "autograd/kernels/dropout.h"

namespace sluice::kernels::reference {

template <class T>
void dropout(int64_t rows, int64_t cols, const Dropout& args, const T* x, T* y) {
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < cols; ++col) {
      const auto index = static_cast<uint64_t>(args.position[row] * ((cols + 3) / 4) + col / 4);
      const auto bits = random_bits(args.key, static_cast<uint64_t>(args.sample[row]), index);
      const bool kept =
          bits[static_cast<size_t>(col % 4)] >= static_cast<uint64_t>(args.rate * 4294967296.0);
      const T scale = static_cast<T>(1.0 / (1.0 - args.rate));
      y[row * cols + col] = kept ? x[row * cols + col] * scale : T{0};
    }
  }
}

}  // namespace sluice::kernels::reference
