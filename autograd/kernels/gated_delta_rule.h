#pragma once
// A memory of matrices that is written by keys and read by queries: the gated delta rule and linear
// attention, in chunks of matrix products.
//
// Gated delta rule (Yang, Kautz and Hatamizadeh 2024, "Gated Delta Networks", eq. 10; without decay:
// Yang et al. 2024, "Parallelizing Linear Transformers with the Delta Rule"). Per head, with the
// memory S [K, V], log-decay g and writing strength beta of each token:
//
//   S_t = e^g_t S_{t-1} + beta_t k_t (x) e_t,   e_t = v_t - e^g_t S_{t-1}^T k_t,
//   o_t = scale S_t^T q_t
//
// `sum` leaves out what the memory holds already, e_t = v_t: linear attention (Katharopoulos et al.
// 2020) with one decay per head and token, a gated linear attention (Yang et al. 2023) whose gate is
// the same for all key channels.
//
// In chunks of n tokens, with G the running sum of g inside the chunk, D_ij = e^(G_i - G_j) for
// i >= j, N = strict_tril(K K^T . D) and the memory S that enters the chunk:
//
//   (1 + N diag(beta)) E = V - diag(e^G) K S         # by blocks of rows, forward substitution
//   U  = diag(beta) E                                # for `sum` E = V
//   O  = scale (diag(e^G) Q S + tril(Q K^T . D) U)
//   S' = e^G_n S + (diag(e^(G_n - G)) K)^T U
//
// This is the WY form: (1 + diag(beta) N)^-1 is its T, applied to diag(beta) (V - diag(e^G) K S) at
// once instead of to diag(beta) V and diag(beta e^G) K one after the other, since S is known by then.
//
// Backward, chunks from right to left, with P = scale tril(Q K^T . D), the gradient Z of S' and the
// one X = scale diag(e^G) dO of Q S [derived here from the forward; checked against differences]:
//
//   dU = P^T dO + diag(e^(G_n - G)) K Z
//   (1 + diag(beta) N)^T R = dU                      # backward substitution; for `sum` R = dU
//   dV = diag(beta) R;   dbeta_i = <R_i, E_i>;   Y = -diag(e^G) dV
//   dP = tril(dO U^T);   dB = scale dP . D
//   dL = -strict_tril(R U^T);   dA = diag(beta) (dL . D)
//   dQ = X S^T + dB K
//   dK = dB^T Q + (dA + dA^T) K + Y S^T + diag(e^(G_n - G)) U Z^T
//   dS = e^G_n Z + Q^T X + K^T Y
//   dg_t = sum_{i >= t, j < t} W_ij + sum_{i >= t} x_i + sum_{j < t} z_j + e^G_n <Z, S>
//   W = dP . P + dL . diag(beta) N;   x_i = <Q_i, S X_i> + <K_i, S Y_i>;
//   z_j = e^(G_n - G_j) <K_j, Z U_j>
//
// where A, Y and dL are absent for `sum`. The last line adds terms of one sign pattern each, never
// the small difference of two large running sums. G is summed, and its differences taken, in double.
//
// Chunks begin anew at every segment's first token, so a segment's values do not depend on what is
// packed beside it. Letters: H heads, K key width, V value width, C chunk.

#include <cstdint>
#include <span>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

/// What a token writes: the part of its value that the memory does not hold, or all of it.
enum class MemoryRule : uint8_t { delta, sum };

/// Tokens of a chunk: the products in it grow with the chunk, those with the memory do not; both are
/// fast at this size for heads of 32 to 128.
inline constexpr int64_t kMemoryChunk = 64;

struct MemoryShape {
  MemoryRule rule;
  int64_t H;
  int64_t K;
  int64_t V;
  double scale;
  int64_t chunk = kMemoryChunk;
};

/// Tokens begin .. end - 1 of the arrays; each segment has memories of its own.
struct MemorySegment {
  int64_t begin;
  int64_t end;
  /// Chunks but for the first of every segment before this one: where its saved memories start.
  int64_t first_state;
};

/// Saved memories of a segment: those that enter its chunks but the first.
[[nodiscard]] constexpr int64_t saved_memories(int64_t tokens, int64_t chunk) {
  return tokens <= 0 ? 0 : (tokens + chunk - 1) / chunk - 1;
}

template <class T>
struct MemoryForward {
  const T* q;                  // [N, H, K]
  const T* k;                  // [N, H, K]
  const T* v;                  // [N, H, V]
  const T* log_decay;          // [N, H], or null: no decay
  const T* beta;               // [N, H], or null: 1
  T* o;                        // [N, H, V]
  T* written = nullptr;        // [N, H, V]: E, for the backward of the delta rule
  T* states = nullptr;         // [saved memories, H, K, V], for the backward
  const T* initial = nullptr;  // [segments, H, K, V]; null: empty memories
  T* final = nullptr;          // [segments, H, K, V]; may be `initial`
};

/// Parallel over segments and heads.
template <class T>
void gated_delta_rule(const MemoryShape& shape, std::span<const MemorySegment> segments,
                      const MemoryForward<T>& args);

template <class T>
struct MemoryBackward {
  const T* q;
  const T* k;
  const T* written;  // E; v for MemoryRule::sum
  const T* log_decay;
  const T* beta;
  const T* states;
  const T* grad_o;
  Gradient<T> grad_q;  // any of them may be unwanted
  Gradient<T> grad_k;
  Gradient<T> grad_v;
  Gradient<T> grad_log_decay;
  Gradient<T> grad_beta;
};

/// Of a forward that began with empty memories. Parallel over segments and heads, each of which owns
/// its part of all gradients.
template <class T>
void gated_delta_rule_backward(const MemoryShape& shape, std::span<const MemorySegment> segments,
                               const MemoryBackward<T>& args);

}  // namespace sluice::kernels
