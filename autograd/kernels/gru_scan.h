#pragma once
// Gated recurrent units (Cho et al. 2014, "Learning phrase representations using RNN encoder-decoder"; the
// reset gate after the product, as in cuDNN and PyTorch), one per expert, over segments of their rows.
//
//   r = sigmoid(a_r + b_r + Wr h),  u = sigmoid(a_u + b_u + Wu h)
//   s = Wc h + b_h,  c = tanh(a_c + b_c + r s),  h' = (1 - u) c + u h
//
// a [R, 3 P] are the inputs' projections, in the order r, u, c; h starts at 0 in every segment. Expert e
// owns the rows expert_offsets[e] .. expert_offsets[e + 1] - 1, which its segments cut.
//
// Segments of an expert go through their tokens side by side, longest first, a block at a time, so that a
// step is one product with a matrix that was packed once. A row's values are a chain of their own
// (gemm.h), so they do not depend on the segments beside it, bit for bit.
//
// Letters: R rows, E experts, P state width, G segments.

#include <cstdint>
#include <span>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

struct GruShape {
  int64_t E;
  int64_t P;
};

template <class T>
struct GruInputs {
  const T* a;                     // [R, 3 P]
  const T* weight;                // [E, 3 P, P]: Wr, Wu, Wc
  const T* bias;                  // [E, 4 P]: b_r, b_u, b_c, b_h
  const int32_t* expert_offsets;  // [E + 1]
};

template <class T>
struct GruScan {
  GruInputs<T> in;
  T* h;                        // [R, P]: h' of every row
  T* gates;                    // [R, 4 P]: r, u, c, s; null when no backward follows
  const T* initial = nullptr;  // [E, P]: what enters the first segment of each expert; null: zeros
  T* last =
      nullptr;  // [E, P]: what leaves its last segment, as it was for an expert without rows; may
                // be `initial`; null: unwanted
};

/// `segments` [G + 1]: rows segments[g] .. segments[g + 1] - 1, none across two experts. Parallel over
/// experts and blocks of segments.
template <class T>
void gru_scan(const GruShape& shape, std::span<const int64_t> segments, const GruScan<T>& args);

/// Elements of the workspace of a backward.
[[nodiscard]] constexpr int64_t gru_workspace(const GruShape& shape, int64_t rows) {
  return 5 * shape.P * rows;
}

template <class T>
struct GruScanBackward {
  GruInputs<T> in;
  const T* h;               // [R, P], from the forward
  const T* gates;           // [R, 4 P], from the forward
  T* workspace;             // [gru_workspace]
  const T* grad_h;          // [R, P]
  Gradient<T> grad_a;       // [R, 3 P]; any of them may be unwanted
  Gradient<T> grad_weight;  // [E, 3 P, P]
  Gradient<T> grad_bias;    // [E, 4 P]
};

/// With l the gradient of h', from the last row of a segment on, and h the state before:
///   du = l (h - c) u (1 - u);  dc = l (1 - u) (1 - c^2);  ds = dc r;  dr = dc s r (1 - r)
///   l <- l u + Wr^T dr + Wu^T du + Wc^T ds
///   da = (dr, du, dc);  dW += (dr, du, ds) (x) h;  db += (dr, du, dc, ds)
template <class T>
void gru_scan_backward(const GruShape& shape, std::span<const int64_t> segments,
                       const GruScanBackward<T>& args);

}  // namespace sluice::kernels
