#pragma once
// One matrix product per expert over contiguous segments of rows: the arithmetic of a sparse layer.
//
// Expert e owns the rows offsets[e] .. offsets[e + 1] - 1 of the R rows, possibly none. All
// products together are one pool of tiles (expert, row block, column block), cut by the problem
// alone; a tile is one gemm_serial, so every element is the same fixed chain of multiply-adds as in
// gemm.h: a row's result depends neither on the other rows of its expert nor on how many there are.

#include <cstdint>
#include <type_traits>

#include "autograd/kernels/gradient.h"
#include "autograd/kernels/stored.h"

namespace sluice::kernels {

/// E experts; the weight is [E, O, I].
struct Groups {
  int64_t E;
  const int32_t* offsets;  // [E + 1], from 0 to R, non-decreasing
  int64_t I;
  int64_t O;
  [[nodiscard]] int64_t rows(int64_t expert) const { return offsets[expert + 1] - offsets[expert]; }
};

/// y[r, o] = sum_i x[r, i] weight[e(r), o, i]: x [R, I], y [R, O].
template <class T>
void grouped_gemm(const Groups& groups, const T* x, std::type_identity_t<Stored<T>> weight, T* y);

/// grad_x[r, i] (+)= sum_o grad_y[r, o] weight[e(r), o, i]
template <class T>
void grouped_gemm_grad_x(const Groups& groups, const T* grad_y, const T* weight,
                         const Gradient<T>& grad_x);

/// Rows in expert order: those of `data` one after another, or, gathered, row index[r] for row r.
template <class T>
struct ExpertRows {
  const T* data;
  const int32_t* index = nullptr;  // [R]
};

/// grad_weight[e, o, i] (+)= sum over rows r of e, in order, of grad_y[r, o] x[r, i]; the
/// overwritten gradient of an expert without rows is zero.
template <class T>
void grouped_gemm_grad_weight(const Groups& groups, const ExpertRows<T>& grad_y,
                              const ExpertRows<T>& x, const Gradient<T>& grad_weight);

}  // namespace sluice::kernels
