#pragma once
// The mean of a document's rows so far, as its definition has it.

#include "autograd/kernels/running_mean.h"

namespace sluice::kernels::reference {

template <class T>
void running_mean(int64_t D, std::span<const int64_t> documents, const T* x, T* y) {
  for (size_t g = 0; g + 1 < documents.size(); ++g) {
    for (int64_t t = documents[g]; t < documents[g + 1]; ++t) {
      for (int64_t i = 0; i < D; ++i) {
        T sum{0};
        for (int64_t s = documents[g]; s <= t; ++s) sum += x[s * D + i];
        y[t * D + i] = sum / static_cast<T>(t - documents[g] + 1);
      }
    }
  }
}

template <class T>
void running_mean_backward(int64_t D, std::span<const int64_t> documents, const T* grad_y,
                           const Gradient<T>& grad_x) {
  for (size_t g = 0; g + 1 < documents.size(); ++g) {
    for (int64_t s = documents[g]; s < documents[g + 1]; ++s) {
      put_gradient(grad_x.from(s * D), D, [&](int64_t i) {
        T sum{0};
        for (int64_t t = s; t < documents[g + 1]; ++t) {
          sum += grad_y[t * D + i] / static_cast<T>(t - documents[g] + 1);
        }
        return sum;
      });
    }
  }
}

}  // namespace sluice::kernels::reference
