#pragma once
// Several rows of a table per token: their weighted sum, and their products with the token's own row.
// Memories of many small entries (product-key memory, Lample et al. 2019; PEER, He 2024) are made of
// the two, and each is what the other's gradients need.
//
// N tokens with k entries each, rows of width D, a table of V rows; ids [N, k], every one a row of the
// table.

#include <cstdint>

#include "autograd/kernels/gradient.h"

namespace sluice::kernels {

/// y[n] = sum over j in order of weight[n, j] table[id[n, j]]; weight [N, k], y [N, D].
template <class T>
struct BagSum {
  int64_t k;
  const int32_t* id;
  const T* weight;
  const T* table;
};
template <class T>
void bag_sum(int64_t N, int64_t D, const BagSum<T>& args, const Gradient<T>& y);

/// z[n, j] = <x[n], table[id[n, j]]>; x [N, D], z [N, k].
template <class T>
struct BagDots {
  int64_t k;
  const int32_t* id;
  const T* x;
  const T* table;
};
template <class T>
void bag_dots(int64_t N, int64_t D, const BagDots<T>& args, const Gradient<T>& z);

/// grad_table[v] = sum over (n, j) with id[n, j] = v, in order, of weight[n, j] x[n]: the table's
/// gradient of both. Entries are sorted by id first, so that each row of the table is written by one
/// thread, in one order. Scratch: 8 (V + N k) bytes.
template <class T>
struct BagTableGradient {
  int64_t V;
  int64_t k;
  const int32_t* id;
  const T* weight;  // [N, k]
  const T* x;       // [N, D]
  Gradient<T> grad_table;
};
template <class T>
void bag_table_gradient(int64_t N, int64_t D, const BagTableGradient<T>& args);

}  // namespace sluice::kernels
