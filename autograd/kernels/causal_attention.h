#pragma once
// Causal attention in tiles with an online softmax: no T x T matrix is ever held.
//
//   S_ij = scale q_i . k_j,  P_ij = e^(S_ij - lse_i),  o_i = sum_j P_ij v_j,  lse_i = log sum_j
//   e^(S_ij)
//
// over the allowed j: same segment, j <= i, i - j < window. Milakov and Gimelshein 2018 (online
// softmax); Dao et al. 2022, "FlashAttention" (tiles, and the backward that recomputes P from lse).
//
// Letters: H query heads, K key/value heads (a divisor of H), P head width; query head h reads key
// head h / (H / K). Arrays are [tokens, heads, P], contiguous.
//
// Key tiles start at the segment's first key, and a query's sums run over them in order: its result
// depends on its own segment's keys only, bit for bit, whether the segment stands alone, packed
// among others, or is decoded token by token.

#include <cstdint>
#include <limits>
#include <span>

#include "autograd/kernels/rope.h"

namespace sluice::kernels {

inline constexpr int64_t kNoWindow = std::numeric_limits<int64_t>::max();

struct AttentionShape {
  int64_t H;
  int64_t K;
  int64_t P;
  double scale;
  int64_t window = kNoWindow;  // tokens a token sees, itself included
};

/// Queries q_begin .. q_end-1 attend to keys k_begin .. k_end-1; the last query is the token of the
/// last key (so with a cache there are more keys than queries).
struct AttentionSegment {
  int64_t q_begin;
  int64_t q_end;
  int64_t k_begin;
  int64_t k_end;
};

template <class T>
struct AttentionForward {
  const T* q;
  const T* k;
  const T* v;
  T* o;              // like q
  T* lse = nullptr;  // [queries, H]; null when no backward follows
  /// Turns q and k as they are read, by their rows' positions; null: they are used as they are. Its
  /// H is not read.
  const Rope<T>* rope = nullptr;
};

/// Parallel over segments, query heads and query tiles.
template <class T>
void causal_attention(const AttentionShape& shape, std::span<const AttentionSegment> segments,
                      const AttentionForward<T>& args);

template <class T>
struct AttentionBackward {
  const T* q;
  const T* k;
  const T* v;
  const T* o;
  const T* lse;
  const T* grad_o;
  Gradient<T> grad_q;  // any of them may be unwanted
  Gradient<T> grad_k;
  Gradient<T> grad_v;
  const Rope<T>* rope = nullptr;  // as in the forward: gradients are of q and k before they turn
};

/// D_i = <dO_i, O_i>;  dV += P^T dO;  dP = dO V^T;  dS = P (dP - D);  dQ += scale dS K;  dK +=
/// scale dS^T Q. Parallel over segments and key heads, each of which owns its part of all three
/// gradients.
template <class T>
void causal_attention_backward(const AttentionShape& shape,
                               std::span<const AttentionSegment> segments,
                               const AttentionBackward<T>& args);

}  // namespace sluice::kernels
