#pragma once
// Mamba-2's state-space recurrence in chunks (Dao and Gu 2024, "Transformers are SSMs: generalized
// models and efficient algorithms through structured state space duality", sections 3 and 6).
//
//   d_t = clamp(softplus(dt_t + dt_bias), dt_min, dt_max),   A = -e^A_log,   a_t = d_t A <= 0
//   S_t = e^(a_t) S_(t-1) + d_t x_t (x) B_t,                 y_t = S_t C_t + D x_t
//
// per head h, which reads B and C of group h / (H / G); S is [P, N] and starts at 0 in every
// document. In chunks of tokens 1 .. q that a state H_in enters, with g_i = a_1 + ... + a_i,
//
//   M_ij = e^(g_i - g_j) C_i . B_j d_j for j <= i, + D on the diagonal
//   Y = M X + diag(e^g) C H_in^T,        H_out = e^(g_q) H_in + X^T diag(d e^(g_q - g)) B
//
// so that everything but the sums of a is a matrix product; neither a T x T matrix nor a state per
// token is ever held. Chunks start at each document's first token: a token's values depend on its
// own document's earlier tokens only, bit for bit.
//
// Letters: T tokens, H heads, P head width, G groups, N state size. States are [H, P, N].

#include <cstdint>
#include <span>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

struct SsdShape {
  int64_t H;
  int64_t P;
  int64_t G;  // a divisor of H
  int64_t N;
  int64_t chunk;  // tokens of a chunk; changes speed and rounding only
  double dt_min;  // the limits of d, 0 <= dt_min < dt_max
  double dt_max;
};

/// What both directions read. Rows of x, B and C are `stride` apart: parts of one array, as the
/// convolution in front leaves them.
template <class T>
struct SsdInputs {
  const T* x;  // [T, H, P]
  const T* B;  // [T, G, N]
  const T* C;  // [T, G, N]
  int64_t stride;
  const T* A_log;  // [H]
  const T* D;      // [H]
};

/// States that `states` of a scan holds: one for each chunk but the first of its document.
[[nodiscard]] int64_t ssd_states(const SsdShape& shape, std::span<const int64_t> documents);

template <class T>
struct SsdScan {
  SsdInputs<T> in;
  const T* dt;                 // [T, H]
  const T* dt_bias;            // [H]
  T* y;                        // [T, H, P]
  T* delta;                    // [T, H]: d, for the backward
  T* states;                   // [ssd_states, H, P, N]: the state that enters each chunk
  const T* initial = nullptr;  // [H, P, N]: the state that enters the first document; null: zeros
  T* last = nullptr;  // [H, P, N]: that behind the last document, not `initial`; null: unwanted
};

/// `documents` [G + 1]: document g has tokens documents[g] .. documents[g + 1] - 1, from 0 on.
/// Parallel over documents and heads for the states (over chunks and heads where those are few),
/// over chunks and heads for the outputs; the sums are the same either way.
template <class T>
void ssd_scan(const SsdShape& shape, std::span<const int64_t> documents, const SsdScan<T>& args);

/// The recurrence itself, for a few tokens of one document: `state` [H, P, N] is read and left
/// behind the last of them. Parallel over heads. args.delta, states, initial and last are not used.
template <class T>
void ssd_step(const SsdShape& shape, int64_t tokens, const SsdScan<T>& args, T* state);

template <class T>
struct SsdScanBackward {
  SsdInputs<T> in;
  const T* delta;   // [T, H], from the forward
  const T* states;  // [ssd_states, H, P, N], from the forward
  T* grad_states;   // [ssd_states, H, P, N]: workspace
  const T* grad_y;  // [T, H, P]
  Gradient<T>
      grad_x;  // rows in.stride apart, like x; these three are wanted together or not at all
  Gradient<T> grad_B;
  Gradient<T> grad_C;
  Gradient<T> grad_dt;       // [T, H]; each of these may be unwanted
  Gradient<T> grad_dt_bias;  // [H]
  Gradient<T> grad_A_log;    // [H]
  Gradient<T> grad_D;        // [H]
};

/// dM = tril(dY X^T), dG = sum over heads of dM e^(g_i - g_j) d_j, W = dM M:
///   dX = M^T dY + diag(d e^(g_q - g)) B dH_out^T,   dH_in = e^(g_q) dH_out + dY^T diag(e^g) C
///   dC = dG B + diag(e^g) dY H_in,                  dB = dG^T C + diag(d e^(g_q - g)) X dH_out
///   da_t = sum_(i>=t, j<t) W_ij + sum_(i>=t) e^(g_i) <dY_i, H_in C_i> + e^(g_q) <dH_out, H_in>
///          + sum_(j<t) d_j e^(g_q - g_j) <x_j, dH_out B_j>
/// (the form of da without cancellation). Parallel over chunks and groups.
template <class T>
void ssd_scan_backward(const SsdShape& shape, std::span<const int64_t> documents,
                       const SsdScanBackward<T>& args);

}  // namespace sluice::kernels
