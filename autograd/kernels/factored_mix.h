#pragma once
// What a token's experts make of it when expert (i, j) of n^2 weighs sum_h from[h, i] to[h, j], a matrix
// of rank H: the sum over i is taken once for each head, not for each j (Monet, Park et al. 2024,
// "Monet: Mixture of Monosemantic Experts for Transformers", arXiv 2412.04139, section 3).
//
//   t_h = sum_i from[h, i] a_i,   z_j = sum_h to[h, j] t_h
//
// a_i and z_j are rows of m numbers. Of `from` and `to` most are 0 (a softmax over few entries), and those
// are passed over: 2 m (entries of from + entries of to) multiply-adds for a token instead of 2 H n m.
//
// Letters: N tokens, H heads, n entries of an axis, m numbers of an entry.

#include <cstdint>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

struct MixShape {
  int64_t N;
  int64_t H;
  int64_t n;
  int64_t m;
};

template <class T>
struct MixInputs {
  const T* from;  // [N, H, n]
  const T* to;    // [N, H, n]
  const T* a;     // [N, n, m]
};

/// z [N, n, m]
template <class T>
void factored_mix(const MixShape& shape, const MixInputs<T>& in, T* z);

template <class T>
struct FactoredMixBackward {
  MixInputs<T> in;
  const T* grad_z;        // [N, n, m]
  Gradient<T> grad_from;  // [N, H, n]; any of them may be unwanted
  Gradient<T> grad_to;    // [N, H, n]
  Gradient<T> grad_a;     // [N, n, m]
};

/// With s_h = sum_j to[h, j] dz_j:
///   da_i = sum_h from[h, i] s_h;  dfrom[h, i] = <s_h, a_i>;  dto[h, j] = <dz_j, t_h>
/// Weights that are 0 have a gradient too. A token's gradients depend on that token alone.
template <class T>
void factored_mix_backward(const MixShape& shape, const FactoredMixBackward<T>& args);

}  // namespace sluice::kernels
