#pragma once
// Causal stick-breaking attention in tiles: each query breaks pieces off a stick of length one,
// newest key first; what is left of it at the end is lost.
//
//   z_ij = scale q_i . k_j,  A_ij = sigmoid(z_ij) prod_{j < l <= i} (1 - sigmoid(z_il)),  o_i = sum_j
//   A_ij v_j
//
// over j <= i of the same segment, computed as A_ij = e^(z_ij - sum_{j <= l <= i} softplus(z_il)), so
// that nothing underflows before its time. Tan et al. 2023, "Sparse Universal Transformer", section
// 3.2; Shen et al. 2023, "ModuleFormer", section 3.1. There are no positions: order is all there is.
//
// A query stops looking where its stick is used up: less than e^-40 of it is left in f32, e^-80 in
// f64, and from the next key on its weights are 0. With random scores that is after some fifty keys in
// f32, so the cost is then linear in the length.
//
// Letters and arrays are those of causal_attention.h. Key tiles start at the segment's first key and
// come newest first: a query's result depends on its own segment's keys only, bit for bit.

#include <span>

#include "autograd/kernels/causal_attention.h"

namespace sluice::kernels {

/// Of `shape`, window, windows and chunks are not read; of `args`, lse and rope must be null. Parallel
/// over segments, query heads and query tiles.
template <class T>
void stick_breaking_attention(const AttentionShape& shape,
                              std::span<const AttentionSegment> segments,
                              const AttentionForward<T>& args);

/// With E_ij = A_ij <dO_i, V_j>:  dz_ij = E_ij (1 - sigmoid(z_ij)) - sigmoid(z_ij) sum_{l < j} E_il;
/// dV += A^T dO;  dQ += scale dz K;  dK += scale dz^T Q. Since sum_l E_il = <dO_i, O_i>, both sums are
/// carried along newest first, as in the forward. args.lse and args.rope must be null. Parallel over
/// segments and key heads, each of which owns its part of all three gradients.
template <class T>
void stick_breaking_attention_backward(const AttentionShape& shape,
                                       std::span<const AttentionSegment> segments,
                                       const AttentionBackward<T>& args);

}  // namespace sluice::kernels
