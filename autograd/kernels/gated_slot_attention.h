#pragma once
// Gated slot attention (Zhang et al. 2024, "Gated Slot Attention for Efficient Linear-Time Sequence
// Modeling", arXiv 2409.07146; the method page names it only): a memory of M slots, each a key and a value, that forget and
// take in by a gate of their own, and that a token reads by softmax attention over slots.
//
//   K_t = diag(a_t) K_{t-1} + (1 - a_t) (x) k_t,   V_t = diag(a_t) V_{t-1} + (1 - a_t) (x) v_t,
//   a_t = e^g_t in (0, 1)^M,   o_t = V_t^T softmax(scale K_t q_t)
//
// per head, from K_0 = V_0 = 0. The paper computes it as two passes of gated linear attention; here
// the recurrence is walked token by token, as (M, P + V) vectors in cache.
//
// Backward, from right to left, with p = softmax(scale K_t q_t) and Z, Y the gradients of K_t and V_t
// [derived here]:
//
//   Y += p (x) do;  ds = p . (V_t do - <p, V_t do>);  dq = scale K_t^T ds;  Z += scale ds (x) q
//   da_m = <Z_m, K_{t-1,m} - k> + <Y_m, V_{t-1,m} - v>;  dg = a . da
//   dk = sum_m (1 - a_m) Z_m;  dv = sum_m (1 - a_m) Y_m;  Z, Y <- diag(a) Z, diag(a) Y
//
// The memories of kSlotSegment tokens are computed again from the one saved before them.
//
// Letters: N tokens, H heads, M slots, P key width, V value width.

#include <cstdint>
#include <span>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

/// Tokens from one saved memory to the next.
inline constexpr int64_t kSlotSegment = 32;

struct GatedSlotShape {
  int64_t H;
  int64_t M;
  int64_t P;
  int64_t V;
  double scale;
  /// Numbers of one head's memory: row m is K_m and then V_m.
  [[nodiscard]] int64_t memory() const { return M * (P + V); }
};

/// Tokens begin .. end - 1 of the arrays; each sequence has memories of its own.
struct GatedSlotSequence {
  int64_t begin;
  int64_t end;
  /// Saved memories of the sequences before: this one's are those after every kSlotSegment tokens but
  /// the last.
  int64_t first_state;
};
[[nodiscard]] constexpr int64_t saved_slot_memories(int64_t tokens) {
  return tokens <= 0 ? 0 : (tokens + kSlotSegment - 1) / kSlotSegment - 1;
}

template <class T>
struct GatedSlotForward {
  const T* q;           // [N, H, P]
  const T* k;           // [N, H, P]
  const T* v;           // [N, H, V]
  const T* log_gate;    // g [N, H, M], below 0
  T* o;                 // [N, H, V]
  T* states = nullptr;  // [saved memories, H, M, P + V], for the backward
  T* memories =
      nullptr;  // [sequences, H, M, P + V]: begun with, and left behind; null: begin with 0
};
/// Parallel over sequences and heads.
template <class T>
void gated_slot_attention(const GatedSlotShape& shape, std::span<const GatedSlotSequence> sequences,
                          const GatedSlotForward<T>& args);

template <class T>
struct GatedSlotBackward {
  const T* q;
  const T* k;
  const T* v;
  const T* log_gate;
  const T* states;
  const T* grad_o;
  Gradient<T> grad_q;  // any of them may be unwanted
  Gradient<T> grad_k;
  Gradient<T> grad_v;
  Gradient<T> grad_log_gate;
};
/// Of a forward that began with 0. Parallel over sequences and heads, each of which owns its part of all
/// gradients.
template <class T>
void gated_slot_attention_backward(const GatedSlotShape& shape,
                                   std::span<const GatedSlotSequence> sequences,
                                   const GatedSlotBackward<T>& args);

}  // namespace sluice::kernels
