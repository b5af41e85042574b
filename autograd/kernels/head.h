#pragma once
// What losses through a language-model head share: a row's softmax, and the way back from the gradients
// of a chunk's logits.
//
// Letters: n tokens of a chunk, D hidden size, V vocabulary.

#include <cmath>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {

/// p <- softmax(z), both [V]; returns log sum_v e^z_v.
template <class T>
[[nodiscard]] T softmax_of_row(int64_t V, const T* z, T* p) {
  const T m = max_of_array(V, z);
  const T total = exp_shifted(V, z, m, p);
  for (int64_t v = 0; v < V; ++v) p[v] /= total;
  return m + std::log(total);
}

/// Where the gradients of a head and its input go; null when not wanted.
template <class T>
struct HeadGradients {
  T* hidden;  // [n, D], overwritten
  T* weight;  // [V, D]
};

/// grad_hidden = dz weight;   grad_weight = dz^T hidden where the chunk is the `first`, += behind it.
template <class T>
void head_backward(GemmSize size, const T* dz, const T* hidden, Stored<T> weight,
                   HeadGradients<T> gradients, bool first) {
  const auto [n, V, D] = size;
  if (gradients.hidden != nullptr) {
    gemm<T>({n, D, V}, {dz, V}, {weight, D}, {gradients.hidden, D});
  }
  if (gradients.weight != nullptr) {
    gemm<T>({V, D, n}, {dz, V, true}, {hidden, D},
            {gradients.weight, D, T{1}, first ? T{0} : T{1}});
  }
}

}  // namespace sluice::kernels
