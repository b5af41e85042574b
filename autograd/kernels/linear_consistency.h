#pragma once
// How far apart two passes over the same tokens are in what they predict, through the
// language-model head, in chunks of tokens: only the logits of a chunk of both passes are held, and
// their gradients take their place.
//
//   z = hidden weight^T,   p = softmax(z[n]),   q = softmax(z[N + n])
//   J_n = 1/2 (KL(p || q) + KL(q || p)) = 1/2 sum_v (p_v - q_v) d_v,   d = log p - log q
//   loss = sum_n J_n / divisor
//   dJ/dz[n] = 1/2 (p (d - KL(p || q)) + p - q),   dJ/dz[N + n] = 1/2 (q (-d - KL(q || p)) + q - p)
//   grad_hidden = dz weight,   grad_weight = dz^T hidden
//
// Tokens with a negative target have no loss and no gradient. Equal logits give exactly 0. A
// token's J depends on its own two rows alone, bit for bit; sums over tokens run in token order
// within fixed chunks.

#include <cstdint>

namespace sluice::kernels {

/// N tokens in two passes, D hidden size, V vocabulary.
template <class T>
struct LinearConsistency {
  int64_t N;
  int64_t D;
  int64_t V;
  const T* hidden;         // [2 N, D]: the first pass, then the second
  const T* weight;         // [V, D]
  const int32_t* targets;  // [N], negative where there is no loss
  T divisor = 1;
  T* logits;                 // scratch [2 linear_consistency_chunk(V), V]
  T* grad_hidden = nullptr;  // [2 N, D], overwritten; null when not wanted
  T* grad_weight = nullptr;  // [V, D], overwritten; null when not wanted
};

/// Tokens per chunk, each with two rows of logits.
[[nodiscard]] int64_t linear_consistency_chunk(int64_t V);

/// Returns the loss. Products run in parallel over tiles, everything else over tokens.
template <class T>
double linear_consistency(const LinearConsistency<T>& args);

}  // namespace sluice::kernels
