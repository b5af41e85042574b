#pragma once
// The language-model head and its cross-entropy, in chunks of tokens: logits [chunk, V] are the
// only thing of size V that is held, and their gradient takes their place.
//
//   z = hidden weight^T,  lse = log sum_v e^z_v,  l = lse - z_target
//   loss = (sum l + z_loss sum lse^2) / divisor
//   dz = (softmax(z) - onehot(target) + 2 z_loss lse softmax(z)) / divisor
//   grad_hidden = dz weight,  grad_weight = dz^T hidden
//
// Tokens with a negative target have no loss and no gradient. A token's loss depends on its own row
// alone, bit for bit; sums over tokens run in token order within fixed chunks.

#include <cstdint>

#include "autograd/kernels/stored.h"

namespace sluice::kernels {

/// N tokens, D hidden size, V vocabulary.
template <class T>
struct LinearCrossEntropy {
  int64_t N;
  int64_t D;
  int64_t V;
  const T* hidden;         // [N, D]
  Stored<T> weight;        // [V, D]
  const int32_t* targets;  // [N], negative where there is no loss
  T divisor = 1;
  T z_loss = 0;
  T* logits;                 // scratch [chunk_tokens(V), V]
  T* token_loss;             // [N]: l, 0 where there is no loss
  T* grad_hidden = nullptr;  // [N, D], overwritten; null when not wanted
  T* grad_weight = nullptr;  // [V, D], overwritten; null when not wanted
};

/// Tokens per chunk: about 8 MiB of f32 logits, at least 256 so that the products stay large.
[[nodiscard]] int64_t linear_cross_entropy_chunk(int64_t V);

/// Returns the loss. Products run in parallel over tiles, everything else over tokens.
template <class T>
double linear_cross_entropy(const LinearCrossEntropy<T>& args);

}  // namespace sluice::kernels
