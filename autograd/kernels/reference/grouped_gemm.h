#pragma once
// Expert products as plain loops.

#include "autograd/kernels/grouped_gemm.h"

namespace sluice::kernels::reference {

/// Row r of rows of `width` elements.
template <class T>
const T* row(const ExpertRows<T>& rows, int64_t r, int64_t width) {
  return rows.data + (rows.index == nullptr ? r : rows.index[r]) * width;
}

/// body(e, r) for every row r of every expert e.
template <class Body>
void for_each_row(const Groups& groups, Body&& body) {
  for (int64_t e = 0; e < groups.E; ++e) {
    for (int64_t r = groups.offsets[e]; r < groups.offsets[e + 1]; ++r) body(e, r);
  }
}

template <class T>
void grouped_gemm(const Groups& groups, const T* x, const T* weight, T* y) {
  const int64_t I = groups.I;
  const int64_t O = groups.O;
  for_each_row(groups, [=](int64_t e, int64_t r) {
    for (int64_t o = 0; o < O; ++o) {
      T sum = 0;
      for (int64_t i = 0; i < I; ++i) sum += x[r * I + i] * weight[(e * O + o) * I + i];
      y[r * O + o] = sum;
    }
  });
}

template <class T>
void grouped_gemm_grad_x(const Groups& groups, const T* grad_y, const T* weight,
                         const Gradient<T>& grad_x) {
  const int64_t I = groups.I;
  const int64_t O = groups.O;
  for_each_row(groups, [&](int64_t e, int64_t r) {
    put_gradient(grad_x.from(r * I), I, [&](int64_t i) {
      T sum = 0;
      for (int64_t o = 0; o < O; ++o) sum += grad_y[r * O + o] * weight[(e * O + o) * I + i];
      return sum;
    });
  });
}

template <class T>
void grouped_gemm_grad_weight(const Groups& groups, const ExpertRows<T>& grad_y,
                              const ExpertRows<T>& x, const Gradient<T>& grad_weight) {
  const int64_t I = groups.I;
  const int64_t O = groups.O;
  for (int64_t e = 0; e < groups.E; ++e) {
    put_gradient(grad_weight.from(e * O * I), O * I, [&](int64_t at) {
      T sum = 0;
      for (int64_t r = groups.offsets[e]; r < groups.offsets[e + 1]; ++r) {
        sum += row(grad_y, r, O)[at / I] * row(x, r, I)[at % I];
      }
      return sum;
    });
  }
}

}  // namespace sluice::kernels::reference
