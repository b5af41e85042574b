#pragma once
// The innermost parts of a matrix product: how operands are packed, and the register tile. Shared
// by gemm, grouped_gemm and causal_attention; nothing outside kernels includes it.
//
// A tile of C has kTileRows x kTileColumns<T> elements, all of them in registers. Packed operands
// are cut into panels, k-major:
//
//   op(A) [M, K]: panels of kTileRows rows,       panel[k * kTileRows + i]
//   op(B) [K, N]: panels of kTileColumns columns, panel[k * kTileColumns + j], short ones filled
//   with 0
//
// Each element of a tile is acc = fma(a[k], b[k], acc) over k in increasing order from 0, then
// alpha * acc + beta * c. Rows and columns never mix, which is what makes results independent of
// tiling.

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/simd.h"

namespace sluice::kernels {

// Two registers wide, and as many rows as leave room for the two registers of B and one of A.
#if defined(__AVX512F__)
inline constexpr int64_t kTileRows = 14;  // 28 accumulators of 32 registers
#else
inline constexpr int64_t kTileRows = 6;  // 12 accumulators of 16 registers
#endif
template <class T>
inline constexpr int64_t kTileColumns = 2 * Vec<T>::kWidth;

/// Where a register tile goes: alpha * acc + beta * c on the first `columns` columns.
template <class T>
struct TileResult {
  T* data;
  int64_t stride;
  int64_t columns;
  T alpha;
  T beta;
};

/// How the rows of the left operand lie in memory: element (i, k) is a[i * kRowStep + k *
/// kDepthStep].
struct PackedRows {
  static constexpr int64_t kRowStep = 1;
  static constexpr int64_t kDepthStep = kTileRows;
};
/// The left operand is itself a tile of results, one register tile wide: row i holds its k = 0 ..
/// kTileColumns-1.
template <class T>
struct ResultRows {
  static constexpr int64_t kRowStep = kTileColumns<T>;
  static constexpr int64_t kDepthStep = 1;
};

namespace detail {
inline constexpr int64_t kAhead = 16;

template <class T>
inline void store_tile_vector(T* c, Vec<T> acc, int64_t count, T alpha, T beta) {
  if (count <= 0) return;
  Vec<T> value = broadcast(alpha) * acc;
  if (beta != T{0}) value = broadcast(beta) * load_first(c, count) + value;
  store_first(c, value, count);
}

template <class T, class Rows, int64_t kRows>
void multiply_tile(int64_t K, const T* a, const T* b, const TileResult<T>& c) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  Vec<T> acc[kRows][2];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kRows; ++i) {
    __builtin_prefetch(c.data + i * c.stride, 1);
    __builtin_prefetch(c.data + i * c.stride + kWidth, 1);
    acc[i][0] = zeros<T>();
    acc[i][1] = zeros<T>();
  }
  for (int64_t k = 0; k < K; ++k) {
    if constexpr (Rows::kRowStep == 1) __builtin_prefetch(a + (k + kAhead) * kTileRows);
    const Vec<T> b0 = load(b + k * kTileColumns<T>);
    const Vec<T> b1 = load(b + k * kTileColumns<T> + kWidth);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kRows; ++i) {
      const Vec<T> x = broadcast(a[i * Rows::kRowStep + k * Rows::kDepthStep]);
      acc[i][0] = fma(x, b0, acc[i][0]);
      acc[i][1] = fma(x, b1, acc[i][1]);
    }
  }
  if (c.columns == kTileColumns<T> && c.alpha == T{1} && (c.beta == T{0} || c.beta == T{1})) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < kRows; ++i) {
      T* row = c.data + i * c.stride;
      if (c.beta != T{0}) {
        acc[i][0] = load(row) + acc[i][0];
        acc[i][1] = load(row + kWidth) + acc[i][1];
      }
      store(row, acc[i][0]);
      store(row + kWidth, acc[i][1]);
    }
    return;
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < kRows; ++i) {
    T* row = c.data + i * c.stride;
    store_tile_vector(row, acc[i][0], std::min(c.columns, kWidth), c.alpha, c.beta);
    store_tile_vector(row + kWidth, acc[i][1], c.columns - kWidth, c.alpha, c.beta);
  }
}

template <class T, class Rows, int64_t kRows>
inline void multiply_rows(int64_t rows, int64_t K, const T* a, const T* b, const TileResult<T>& c) {
  if (rows == kRows) {
    multiply_tile<T, Rows, kRows>(K, a, b, c);
  } else if constexpr (kRows > 1) {
    multiply_rows<T, Rows, kRows - 1>(rows, K, a, b, c);
  }
}

}  // namespace detail

/// One register tile: `rows` (1 .. kTileRows) rows of a panel of A times a panel of B, over K.
template <class T, class Rows = PackedRows>
inline void multiply_tile(int64_t rows, int64_t K, const T* a, const T* b, const TileResult<T>& c) {
  detail::multiply_rows<T, Rows, kTileRows>(rows, K, a, b, c);
}

/// Packs rows into panels of kPanel lanes: panel[k * kPanel + i] = source[i * stride + k], k < K.
/// The matrix has `rows` rows; lanes past them are filled with 0.
template <class T, int64_t kPanel>
inline void pack_transposing(int64_t rows, int64_t K, const T* source, int64_t stride, T* packed) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  for (int64_t first = 0; first < rows; first += kPanel, packed += kPanel * K) {
    for (int64_t lane = 0; lane < kPanel; lane += kWidth) {
      const int64_t lanes = std::min(kWidth, kPanel - lane);
      const int64_t present = std::min(lanes, rows - first - lane);
      const T* corner = source + (first + lane) * stride;
      for (int64_t k = 0; k < K; k += kWidth) {
        const int64_t depth = std::min(kWidth, K - k);
        Vec<T> block[kWidth];
        for (int64_t i = 0; i < kWidth; ++i) {
          __builtin_prefetch(corner + (i + kWidth) * stride + k);
          block[i] = i < present ? load_first(corner + i * stride + k, depth) : zeros<T>();
        }
        transpose(block);
        for (int64_t i = 0; i < depth; ++i)
          store_first(packed + (k + i) * kPanel + lane, block[i], lanes);
      }
    }
  }
}

/// Packs columns into panels of kPanel lanes: panel[k * kPanel + i] = source[k * stride + i], k <
/// K. The matrix has `columns` columns; lanes past them are filled with 0. Whole rows are read at a
/// time.
template <class T, int64_t kPanel>
inline void pack_copying(int64_t columns, int64_t K, const T* source, int64_t stride, T* packed) {
  const int64_t full = columns / kPanel;
  for (int64_t k = 0; k < K; ++k) {
    const T* row = source + k * stride;
    T* lanes = packed + k * kPanel;
    for (int64_t panel = 0; panel < full; ++panel, row += kPanel, lanes += kPanel * K) {
      __builtin_prefetch(row + 8 * stride);
      std::memcpy(lanes, row, kPanel * sizeof(T));
    }
    if (const int64_t rest = columns - full * kPanel; rest > 0) {
      std::copy_n(row, rest, lanes);
      std::fill(lanes + rest, lanes + kPanel, T{0});
    }
  }
}

/// Packs rows [row, row + rows) and depths [depth, depth + K) of op(A) into panels.
template <class T>
inline void pack_a(const GemmOperand<T>& a, int64_t row, int64_t rows, int64_t depth, int64_t K,
                   T* packed) {
  if (a.transposed) {
    pack_copying<T, kTileRows>(rows, K, a.data + depth * a.stride + row, a.stride, packed);
  } else {
    pack_transposing<T, kTileRows>(rows, K, a.data + row * a.stride + depth, a.stride, packed);
  }
}

/// Packs columns [column, column + columns) and depths [depth, depth + K) of op(B) into panels.
template <class T>
inline void pack_b(const GemmOperand<T>& b, int64_t column, int64_t columns, int64_t depth,
                   int64_t K, T* packed) {
  if (b.transposed) {
    pack_transposing<T, kTileColumns<T>>(columns, K, b.data + column * b.stride + depth, b.stride,
                                         packed);
  } else {
    pack_copying<T, kTileColumns<T>>(columns, K, b.data + depth * b.stride + column, b.stride,
                                     packed);
  }
}

/// Longest chain of one accumulator: longer K is cut into equal blocks, by K alone.
inline constexpr int64_t kMaxDepth = 256;
[[nodiscard]] constexpr int64_t depth_block(int64_t K) {
  const int64_t blocks = (K + kMaxDepth - 1) / kMaxDepth;
  return blocks <= 1 ? K : (K + blocks - 1) / blocks;
}

}  // namespace sluice::kernels
