#pragma once
// The SwiGLU experts of a sparse layer in one pass over their tokens:
//
//   g = Wg[e] x[t],  u = Wu[e] x[t],  h = silu(g) * u,  y[r] = Wd[e] h      e = e(r), t = token(r)
//
// for R rows in expert order (permute_tokens.h). Tokens are gathered as operands are packed, h never
// leaves the cache, and an expert's weights are read once for a few hundred rows. A feed-forward
// layer is the case of one expert that has all tokens.
//
// Parallel over blocks of rows of all experts, those with most rows first. A row's values depend
// neither on the other rows nor on the block: sums over D and F are the chains of gemm.h.
//
// Backward, with v[r] = weight of the row times the gradient of its token's output:
//
//   dh = Wd[e]^T v[r],  dg = dh u silu'(g),  du = dh silu(g),  dx[r] = Wg[e]^T dg + Wu[e]^T du
//   dWg[e] = sum_r dg x^T,  dWu[e] = sum_r du x^T,  dWd[e] = sum_r v[r] h^T
//   dweight[r] = <Wd[e]^T grad_y[t], h>, so that y need not be kept

#include <cstdint>

#include "autograd/kernels/gradient.h"
#include "autograd/kernels/stored.h"

namespace sluice::kernels {

/// E experts, D -> F -> D.
struct ExpertsShape {
  int64_t E;
  int64_t D;
  int64_t F;
  const int32_t* offsets;                 // [E + 1], from 0 to R, non-decreasing
  const int32_t* token_of_row = nullptr;  // [R]; null: row r is token r
  [[nodiscard]] int64_t rows() const { return offsets[E]; }
  [[nodiscard]] int64_t rows(int64_t expert) const { return offsets[expert + 1] - offsets[expert]; }
  [[nodiscard]] int64_t token(int64_t row) const {
    return token_of_row == nullptr ? row : token_of_row[row];
  }
};

template <class T>
struct ExpertWeights {
  Stored<T> gate;  // [E, F, D]
  Stored<T> up;    // [E, F, D]
  Stored<T> down;  // [E, D, F]
};

/// g and u of every row, for the backward: R F elements each, in an order of the kernel's own.
template <class T>
struct ExpertsHidden {
  T* gate = nullptr;
  T* up = nullptr;
};

/// x [N, D] -> y [R, D]; `hidden` is filled unless null.
template <class T>
void swiglu_experts(const ExpertsShape& shape, const ExpertWeights<T>& weights, const T* x,
                    const ExpertsHidden<T>& hidden, T* y);

template <class T>
struct ExpertsBackward {
  const T* grad_y;                       // [N, D]
  const T* weight = nullptr;             // by slot; null: weights of one
  const int32_t* slot_of_row = nullptr;  // [R]; null: row r is slot r
  ExpertsHidden<const T> hidden;         // as the forward left it
  Gradient<T> grad_rows;                 // [R, D]: dx; unwanted, as any of the gradients may be
  Gradient<T> grad_weight;               // by slot; slots without a row are left as they are
};

/// What the gradients of the weights are products of: [R, F] each. The gradients of g and u may take
/// the place of g and u where swiglu_experts_in_place(F) holds.
template <class T>
struct ExpertsRows {
  T* grad_gate = nullptr;  // dg
  T* grad_up = nullptr;    // du
  T* hidden = nullptr;     // weight times h
};

/// True where a row's g and u have all been read before their gradients are written.
[[nodiscard]] bool swiglu_experts_in_place(int64_t F);

/// Everything but the gradients of the weights, whose factors are left in `rows` unless null.
template <class T>
void swiglu_experts_backward(const ExpertsShape& shape, const ExpertWeights<T>& weights,
                             const ExpertsBackward<T>& args, const ExpertsRows<T>& rows);

}  // namespace sluice::kernels
