#pragma once
// Prices of tokens and experts in the assignment problem behind BIP-based balancing.
//
//   max sum s_te x_te   with   sum_e x_te <= k,   sum_t x_te <= C,   0 <= x_te <= 1
//
// has the dual
//
//   min k sum_t p_t + C sum_e q_e + sum_te max(0, s_te - p_t - q_e)   with   p, q >= 0
//
// which block-coordinate descent lowers by the two half-steps below: each is the exact minimum over
// one block of prices with the other fixed. Sun 2025, "Binary-Integer-Programming Based Algorithm
// for Expert Load Balancing in Mixture-of-Experts Models", algorithm 1 (there called an ADMM).
//
// Letters: T tokens, E experts, k experts per token, C capacity of an expert.

#include <cstdint>

namespace sluice {

template <class T>
struct AssignmentProblem {
  int64_t tokens;
  int64_t experts;
  int64_t top_k;
  int64_t capacity;
  const T* scores;  // [E, T]: the scores of one expert are contiguous
  /// Price an expert in the middle of what its last token offers and what the next one does.
  bool midpoint = false;
};

/// p_t = max(0, (k + 1)-th largest over e of s_te - q_e), 0 when k = E; NaN counts as the least.
/// q [E], p [T]. O(T E k), vectorised over tokens.
template <class T>
void price_tokens(const AssignmentProblem<T>& problem, const T* q, T* p);

/// q_e = max(0, (C + 1)-th largest over t of s_te - p_t), 0 when C >= T; NaN counts as the least.
/// p [T], q [E]. O(T E) a pass, about 15 passes of a vectorised count. Every q_e from there up to
/// max(0, C-th largest) minimises the dual alike: with `midpoint` it is the middle, so that no
/// token is exactly indifferent; the same where C is 0 or C >= T.
template <class T>
void price_experts(const AssignmentProblem<T>& problem, const T* p, T* q);

}  // namespace sluice
