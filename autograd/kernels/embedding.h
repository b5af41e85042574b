#pragma once
// Rows of a table by number, and the sum of their gradients.

#include <cstdint>
#include <type_traits>

#include "autograd/kernels/gradient.h"
#include "autograd/kernels/stored.h"

namespace sluice::kernels {

/// y[n] = weight[id[n]], rows of width D. Every id must be a row of the table.
template <class T>
void embedding(int64_t N, int64_t D, const int32_t* id, std::type_identity_t<Stored<T>> weight,
               T* y);

template <class T>
struct EmbeddingBackward {
  int64_t V;                // rows of the table
  const int32_t* id;        // [N], 0 .. V-1
  const T* grad_y;          // [N, D]
  Gradient<T> grad_weight;  // [V, D]
};

/// grad_weight[v] = sum over n with id[n] = v, in increasing n, of grad_y[n]. Ids are sorted first,
/// so that each row of the table is written by one thread, in one order. Scratch: 8 (V + N) bytes.
template <class T>
void embedding_backward(int64_t N, int64_t D, const EmbeddingBackward<T>& args);

}  // namespace sluice::kernels
