#pragma once
// Causal attention in tiles with an online softmax: no T x T matrix is ever held.
//
//   S_ij = scale q_i . k_j,  P_ij = e^(S_ij - lse_i),  o_i = sum_j P_ij v_j,  lse_i = log sum_j
//   e^(S_ij)
//
// over the allowed j: same segment, j <= i, and i - j < window or j in a chunk that i was given
// (KeyChunks). Milakov and Gimelshein 2018 (online softmax); Dao et al. 2022, "FlashAttention"
// (tiles, and the backward that recomputes P from lse). Tiles that no query of a panel may see are
// skipped: the cost falls with the window.
//
// Letters: H query heads, K key/value heads (a divisor of H), P width of queries and keys, V width
// of values and outputs; query head h reads key head h / (H / K). Arrays are [tokens, heads, width],
// contiguous.
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

/// Keys that queries see beside their window: chunks of a segment's keys, counted from its first.
struct KeyChunks {
  int64_t chunk;          // keys of a chunk
  int64_t first;          // every query sees this many chunks at the segment's start
  int64_t per_query;      // chunks chosen for each query and key head
  const int32_t* chosen;  // [queries, K, per_query]; -1 for none
};

struct AttentionShape {
  int64_t H;
  int64_t K;
  int64_t P;
  double scale;
  int64_t window = kNoWindow;         // tokens a token sees, itself included
  int64_t V = 0;                      // 0: P
  const int64_t* windows = nullptr;   // [K]: each key head's own, instead of `window`
  const KeyChunks* chunks = nullptr;  // null: the window alone
  bool heads_alternate = false;       // query head h reads key head h % K instead of h / (H / K)

  [[nodiscard]] int64_t value_width() const { return V == 0 ? P : V; }
  [[nodiscard]] int64_t key_head_of(int64_t head) const {
    return heads_alternate ? head % K : head / (H / K);
  }
  [[nodiscard]] int64_t window_of(int64_t key_head) const {
    return windows == nullptr ? window : windows[key_head];
  }
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
  T* o;              // [queries, H, V]
  T* lse = nullptr;  // [queries, H]; null when no backward follows
  /// Turns q and k as they are read, by their rows' positions; null: they are used as they are. Its
  /// H is not read.
  const Rope<T>* rope = nullptr;
  /// From a token's values to the next token's; 0: K V. Values may so be columns of wider rows.
  int64_t value_stride = 0;
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
