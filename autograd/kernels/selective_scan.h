#pragma once
// Mamba's selective state-space recurrence (Gu and Dao 2023, "Mamba: linear-time sequence modeling
// with selective state spaces", algorithm 2).
//
//   d_t = softplus(dt_t + dt_bias),   A = -e^A_log
//   h_t[n] = e^(d_t A[n]) h_(t-1)[n] + d_t B_t[n] u_t,   y_t = sum_n C_t[n] h_t[n] + D u_t
//
// per channel; h starts at 0 in every document. Channels are lanes, tokens are walked in order, and
// the state is kept at every kSelectiveSegment-th token of a document, from where the backward
// computes the states between again. A token's values depend on its own document's earlier tokens
// only, bit for bit.
//
// Letters: T tokens, E channels, N state size. States are [N, E].

#include <cstdint>
#include <span>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

/// Tokens between two states that are kept.
inline constexpr int64_t kSelectiveSegment = 64;

struct SelectiveShape {
  int64_t E;
  int64_t N;
};

template <class T>
struct SelectiveInputs {
  const T* u;        // [T, E]
  const T* dt;       // [T, E]
  const T* dt_bias;  // [E]
  const T* A_log;    // [E, N]
  const T* B;        // [T, N]
  const T* C;        // [T, N]
  const T* D;        // [E]
};

/// States that `states` of a scan holds: one for each segment but the first of its document.
[[nodiscard]] int64_t selective_states(std::span<const int64_t> documents);

template <class T>
struct SelectiveScan {
  SelectiveInputs<T> in;
  T* y;                        // [T, E]
  T* states;                   // [selective_states, N, E]; null when no backward follows
  const T* initial = nullptr;  // [N, E]: the state that enters the first document; null: zeros
  T* last =
      nullptr;  // [N, E]: the state behind the last document, may be `initial`; null: unwanted
};

/// `documents` [G + 1]: document g has tokens documents[g] .. documents[g + 1] - 1, from 0 on.
/// Parallel over documents and blocks of channels.
template <class T>
void selective_scan(const SelectiveShape& shape, std::span<const int64_t> documents,
                    const SelectiveScan<T>& args);

/// Elements of the workspace of a backward.
template <class T>
[[nodiscard]] int64_t selective_workspace(const SelectiveShape& shape, int64_t tokens);

template <class T>
struct SelectiveScanBackward {
  SelectiveInputs<T> in;
  const T* states;           // [selective_states, N, E], from the forward
  T* workspace;              // [selective_workspace]
  const T* grad_y;           // [T, E]
  Gradient<T> grad_u;        // [T, E]; any of them may be unwanted
  Gradient<T> grad_dt;       // [T, E]
  Gradient<T> grad_dt_bias;  // [E]
  Gradient<T> grad_A_log;    // [E, N]
  Gradient<T> grad_B;        // [T, N]
  Gradient<T> grad_C;        // [T, N]
  Gradient<T> grad_D;        // [E]
};

/// With l the gradient of h, from the last token on (l starts at 0 in every document):
///   l += dy_t C_t;  dC_t = sum_channels dy_t h_t;  dB_t = sum_channels l d_t u_t
///   w = l e^(d_t A) h_(t-1);  du_t = D dy_t + d_t sum_n l B_t;  dd_t = u_t sum_n l B_t + sum_n w A
///   dA += w d_t;  l <- l e^(d_t A)
/// Parallel over runs of documents and blocks of channels.
template <class T>
void selective_scan_backward(const SelectiveShape& shape, std::span<const int64_t> documents,
                             const SelectiveScanBackward<T>& args);

}  // namespace sluice::kernels
