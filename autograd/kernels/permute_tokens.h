#pragma once
// Between token order and expert order. N tokens choose k experts each; a (token, slot) pair is an
// assignment. In expert order the assignments of expert 0 come first, then those of expert 1, ...,
// each in order of (token, slot), so that an expert's tokens are one contiguous segment (Gale et
// al. 2022, "MegaBlocks", section 4: dropless experts).
//
// An assignment with expert -1 was dropped: it has no row and contributes nothing.

#include <cstdint>
#include <type_traits>

#include "autograd/kernels/gradient.h"
#include "autograd/kernels/stored.h"

namespace sluice::kernels {

/// Which experts were chosen.
struct Assignments {
  int64_t N;
  int64_t k;
  int64_t E;
  const int32_t* expert;  // [N, k], 0 .. E-1, or -1 where dropped
};

/// offsets [E + 1]: expert e has the rows offsets[e] .. offsets[e + 1] - 1; R = offsets[E] of them,
/// N k when nothing is dropped. Throws ShapeError for an expert outside -1 .. E-1.
void count_by_expert(const Assignments& assignments, int32_t* offsets);

/// Where each assignment stands.
struct ExpertOrder {
  int32_t* token_of_row;  // [R]
  int32_t* slot_of_row;   // [R]: token * k + slot
  int32_t* row_of_slot;   // [N, k], -1 where dropped
};

/// A stable counting sort of the assignments by expert, with the offsets from count_by_expert.
void order_by_expert(const Assignments& assignments, const int32_t* offsets,
                     const ExpertOrder& order);

/// y[r] = x[index[r]], rows of width D.
template <class T>
void gather_rows(int64_t R, int64_t D, const int32_t* index, std::type_identity_t<Stored<T>> x,
                 T* y);

/// The way back from expert order.
template <class T>
struct CombineRows {
  int64_t k;
  const int32_t* row_of_slot;  // [N, k]
  const T* weight;             // [N, k], or null for weights of one
  const T* rows;               // [R, D], in expert order
};

/// y[n] = sum over slots s in order of weight[n, s] rows[row_of_slot[n, s]]; [N, D]. Zero when all
/// were dropped. With weights of one this is the backward of gather_rows.
template <class T>
void combine_rows(int64_t N, int64_t D, const CombineRows<T>& args, const Gradient<T>& y);

template <class T>
struct CombineRowsBackward {
  const T* grad_y;          // [N, D]
  Gradient<T> grad_rows;    // [R, D]: grad_rows[row of (n, s)] = weight[n, s] grad_y[n]
  Gradient<T> grad_weight;  // [N, k]: <rows[row of (n, s)], grad_y[n]>, 0 where dropped
};

/// Every row belongs to exactly one assignment, so that tokens can be taken in any order.
template <class T>
void combine_rows_backward(int64_t N, int64_t D, const CombineRows<T>& args,
                           const CombineRowsBackward<T>& gradients);

}  // namespace sluice::kernels
