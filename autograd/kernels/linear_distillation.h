#pragma once
// How far a student's predictions are from a teacher's, each through its own language-model head, in
// chunks of tokens: only the logits of a chunk of both are held, and the student's gradients take the
// place of its own.
//
//   a = hidden weight^T / tau,   b = teacher_hidden teacher_weight^T / tau
//   p = softmax(a),   q = softmax(b)
//   loss = tau^2 sum_n KL(q || p) / divisor,   KL(q || p) = sum_v q_v (log q_v - log p_v)
//   d loss / d student logits = tau (p - q) / divisor
//   grad_hidden = dz weight,   grad_weight = dz^T hidden
//
// (Hinton, Vinyals and Dean 2015, arXiv 1503.02531; tau^2 keeps the size of gradients.) Tokens with a
// negative target have no loss and no gradient. Equal logits give exactly 0. A token's loss depends on
// its own two rows alone, bit for bit; sums over tokens run in token order within fixed chunks.

#include <cstdint>

namespace sluice::kernels {

/// N tokens, D and C hidden sizes of student and teacher, V vocabulary.
template <class T>
struct LinearDistillation {
  int64_t N;
  int64_t D;
  int64_t C;
  int64_t V;
  const T* hidden;          // [N, D]
  const T* weight;          // [V, D]
  const T* teacher_hidden;  // [N, C]
  const T* teacher_weight;  // [V, C]
  const int32_t* targets;   // [N], negative where there is no loss
  T temperature = 1;        // tau
  T divisor = 1;
  T* logits;                 // scratch [2 linear_distillation_chunk(V), V]
  T* grad_hidden = nullptr;  // [N, D], overwritten; null when not wanted
  T* grad_weight = nullptr;  // [V, D], overwritten; null when not wanted
};

/// Tokens per chunk, each with two rows of logits.
[[nodiscard]] int64_t linear_distillation_chunk(int64_t V);

/// Returns the loss. Products run in parallel over tiles, everything else over tokens.
template <class T>
double linear_distillation(const LinearDistillation<T>& args);

}  // namespace sluice::kernels
