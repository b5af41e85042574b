#pragma once
// Tokens and slots: a few vectors that stand for a sequence, read by tokens and written from them.
//
// Set g has S slots, and the tokens [begin, end) of its range are its own. The weights of a token over
// the slots of its set sum to one, so that slots compete for tokens:
//
//   A[t, s] = softmax over s of scale <token[t], slot[g, s]>
//   read:   o[t] = sum_s A[t, s] v[g, s]                              cross-attention, tokens to slots
//   write:  u[g, s] = sum_t A[t, s] v[t] / Z[s],  Z[s] = 1e-8 + sum_t A[t, s]     slot attention
//
// for each head apart. Write: Locatello et al. 2020, "Object-Centric Learning with Slot Attention",
// algorithm 1, the mean that moves the slots; there 1e-8 is added to every weight. A set without tokens
// gives 0.
//
// Letters: N tokens, G sets, S slots, H heads, P width of token and slot, V value width.
//
// A is computed again in the backward: [tokens of a range, S] of scratch per thread is all there is.
// Parallel over sets and heads, each of which owns what it writes.

#include <cstdint>
#include <span>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

/// Tokens begin .. end - 1 of a set. Ranges do not overlap.
struct SlotRange {
  int64_t begin;
  int64_t end;
};

struct SlotShape {
  int64_t S;
  int64_t H;
  int64_t P;
  int64_t V;
  double scale = 1.0;
};

/// v and out: read [G, S, H, V] and [N, H, V], write [N, H, V] and [G, S, H, V]. Tokens outside all
/// ranges are neither read nor written.
template <class T>
struct SlotForward {
  const T* token;  // [N, H, P]
  const T* slot;   // [G, S, H, P]
  const T* v;
  T* out;
};
template <class T>
void read_slots(const SlotShape& shape, std::span<const SlotRange> ranges,
                const SlotForward<T>& args);
template <class T>
void write_slots(const SlotShape& shape, std::span<const SlotRange> ranges,
                 const SlotForward<T>& args);

/// Gradients are added to what is there.
template <class T>
struct SlotBackward {
  const T* token;
  const T* slot;
  const T* v;
  const T* out;  // of the forward; only write looks at it
  const T* grad_out;
  T* grad_token;  // each may be null
  T* grad_slot;
  T* grad_v;
};
/// With g = grad_out:  dv[s] += sum_t A[t, s] g[t],  dA[t, s] = <g[t], v[s]>.
template <class T>
void read_slots_backward(const SlotShape& shape, std::span<const SlotRange> ranges,
                         const SlotBackward<T>& args);
/// With g[s] = grad_out[s] / Z[s]:  dv[t] += sum_s A[t, s] g[s],  dA[t, s] = <v[t] - u[s], g[s]>.
template <class T>
void write_slots_backward(const SlotShape& shape, std::span<const SlotRange> ranges,
                          const SlotBackward<T>& args);

}  // namespace sluice::kernels
