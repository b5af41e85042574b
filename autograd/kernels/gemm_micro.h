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

/// kVectors registers wide: one where C has no more columns than that.
template <class T, class Rows, int64_t kVectors, int64_t kRows>
void multiply_tile(int64_t K, const T* a, const T* b, const TileResult<T>& c) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  Vec<T> acc[kRows][kVectors];
#pragma GCC unroll 16
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t v = 0; v < kVectors; ++v) acc[i][v] = zeros<T>();
  }
  const auto advance = [&](int64_t k) {
    if constexpr (Rows::kRowStep == 1) __builtin_prefetch(a + (k + kAhead) * Rows::kDepthStep);
    Vec<T> right[kVectors];
    for (int64_t v = 0; v < kVectors; ++v) right[v] = load(b + k * kTileColumns<T> + v * kWidth);
#pragma GCC unroll 16
    for (int64_t i = 0; i < kRows; ++i) {
      const Vec<T> x = broadcast(a[i * Rows::kRowStep + k * Rows::kDepthStep]);
      for (int64_t v = 0; v < kVectors; ++v) acc[i][v] = fma(x, right[v], acc[i][v]);
    }
  };
  // C is fetched row by row while the sums run: all rows at once would hold up the loads of A and B.
  int64_t k = 0;
  for (int64_t i = 0; i < kRows; ++i) {
    for (int64_t v = 0; v < kVectors; ++v) {
      __builtin_prefetch(c.data + i * c.stride + v * kWidth, 1);
    }
    for (const int64_t end = k + K / kRows; k < end; ++k) advance(k);
  }
  for (; k < K; ++k) advance(k);
  if (c.columns == kVectors * kWidth && c.alpha == T{1} && (c.beta == T{0} || c.beta == T{1})) {
#pragma GCC unroll 16
    for (int64_t i = 0; i < kRows; ++i) {
      T* row = c.data + i * c.stride;
      for (int64_t v = 0; v < kVectors; ++v) {
        if (c.beta != T{0}) acc[i][v] = load(row + v * kWidth) + acc[i][v];
        store(row + v * kWidth, acc[i][v]);
      }
    }
    return;
  }
#pragma GCC unroll 16
  for (int64_t i = 0; i < kRows; ++i) {
    T* row = c.data + i * c.stride;
    for (int64_t v = 0; v < kVectors; ++v) {
      store_tile_vector(row + v * kWidth, acc[i][v], std::min(c.columns - v * kWidth, kWidth),
                        c.alpha, c.beta);
    }
  }
}

template <class T, class Rows, int64_t kVectors, int64_t kRows>
inline void multiply_rows(int64_t rows, int64_t K, const T* a, const T* b, const TileResult<T>& c) {
  if (rows == kRows) {
    multiply_tile<T, Rows, kVectors, kRows>(K, a, b, c);
  } else if constexpr (kRows > 1) {
    multiply_rows<T, Rows, kVectors, kRows - 1>(rows, K, a, b, c);
  }
}

}  // namespace detail

/// One register tile: `rows` (1 .. kTileRows) rows of a panel of A times a panel of B, over K.
template <class T, class Rows = PackedRows>
inline void multiply_tile(int64_t rows, int64_t K, const T* a, const T* b, const TileResult<T>& c) {
  if (c.columns <= Vec<T>::kWidth) {
    detail::multiply_rows<T, Rows, 1, kTileRows>(rows, K, a, b, c);
  } else {
    detail::multiply_rows<T, Rows, 2, kTileRows>(rows, K, a, b, c);
  }
}

/// The rows of a matrix in memory: `stride` apart, or, gathered, in the order of an index.
template <class T>
struct MatrixRows {
  const T* data;
  int64_t stride;
  const int32_t* index = nullptr;

  [[nodiscard]] const T* operator[](int64_t row) const {
    return data + (index == nullptr ? row : index[row]) * stride;
  }
};

/// body(rows) with the MatrixRows of elements as they are stored.
template <class T, class Body>
inline void visit_rows(const Stored<T>& data, int64_t stride, const int32_t* index, Body&& body) {
  data.visit([&]<class S>(const S* elements) { body(MatrixRows<S>{elements, stride, index}); });
}

/// Packs rows into panels of kPanel lanes: panel[k * kPanel + i] = source[first + i][k], k < K.
/// There are `rows` of them; lanes past them are filled with 0. The source may be stored in another type S than T, for which load_first gives a Vec<T>.
template <class T, int64_t kPanel, class S = T>
inline void pack_transposing(int64_t rows, int64_t K, const MatrixRows<S>& source, T* packed) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  for (int64_t first = 0; first < rows; first += kPanel, packed += kPanel * K) {
    for (int64_t lane = 0; lane < kPanel; lane += kWidth) {
      const int64_t lanes = std::min(kWidth, kPanel - lane);
      const int64_t present = std::min(lanes, rows - first - lane);
      const S* row[kWidth];
      const S* ahead[kWidth];
      for (int64_t i = 0; i < kWidth; ++i) {
        row[i] = source[std::min(first + lane + i, rows - 1)];
        ahead[i] = source[std::min(first + lane + i + kWidth, rows - 1)];
      }
      for (int64_t k = 0; k < K; k += kWidth) {
        const int64_t depth = std::min(kWidth, K - k);
        Vec<T> block[kWidth];
        for (int64_t i = 0; i < kWidth; ++i) {
          __builtin_prefetch(ahead[i] + k);
          block[i] = i < present ? load_first(row[i] + k, depth) : zeros<T>();
        }
        transpose(block);
        for (int64_t i = 0; i < depth; ++i)
          store_first(packed + (k + i) * kPanel + lane, block[i], lanes);
      }
    }
  }
}

namespace detail {
/// kPanel lanes, of which the first `count` are copied and the others 0.
template <class T, int64_t kPanel, class S>
inline void copy_lanes(const S* from, int64_t count, T* to) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
#pragma GCC unroll 4
  for (int64_t i = 0; i < kPanel; i += kWidth) {
    const Vec<T> lanes = load_first(from + i, std::clamp<int64_t>(count - i, 0, kWidth));
    store_first(to + i, lanes, std::min(kWidth, kPanel - i));
  }
}
}  // namespace detail

/// Packs columns into panels of kPanel lanes: panel[k * kPanel + i] = source[k][first + i], k < K.
/// The rows have `columns` columns; lanes past them are filled with 0. Whole rows are read at a
/// time.
template <class T, int64_t kPanel, class S = T>
inline void pack_copying(int64_t columns, int64_t K, const MatrixRows<S>& source, T* packed) {
  constexpr int64_t kRowsAhead = 8;
  const int64_t full = columns / kPanel;
  const int64_t rest = columns - full * kPanel;
  for (int64_t k = 0; k < K; ++k) {
    const S* row = source[k];
    const S* ahead = source[std::min(k + kRowsAhead, K - 1)];
    T* lanes = packed + k * kPanel;
    for (int64_t panel = 0; panel < full; ++panel, lanes += kPanel * K) {
      __builtin_prefetch(ahead + panel * kPanel);
      detail::copy_lanes<T, kPanel>(row + panel * kPanel, kPanel, lanes);
    }
    if (rest > 0) detail::copy_lanes<T, kPanel>(row + full * kPanel, rest, lanes);
  }
}

/// Packs one way or the other: op(X) is [lanes, depths], and lies in memory like that
/// (`rows_are_lanes`) or transposed.
template <class T, int64_t kPanel>
inline void pack_operand(const GemmOperand<T>& x, bool rows_are_lanes, int64_t lane, int64_t lanes,
                         int64_t depth, int64_t K, T* packed) {
  const int64_t row = rows_are_lanes ? lane : depth;
  const int64_t column = rows_are_lanes ? depth : lane;
  const bool gathers = x.index != nullptr;
  const Stored<T> first = x.data + (gathers ? column : row * x.stride + column);
  visit_rows(first, x.stride, gathers ? x.index + row : nullptr, [&](const auto& rows) {
    if (rows_are_lanes) {
      pack_transposing<T, kPanel>(lanes, K, rows, packed);
    } else {
      pack_copying<T, kPanel>(lanes, K, rows, packed);
    }
  });
}

/// Packs rows [row, row + rows) and depths [depth, depth + K) of op(A) into panels.
template <class T>
inline void pack_a(const GemmOperand<T>& a, int64_t row, int64_t rows, int64_t depth, int64_t K,
                   T* packed) {
  pack_operand<T, kTileRows>(a, !a.transposed, row, rows, depth, K, packed);
}

/// Packs columns [column, column + columns) and depths [depth, depth + K) of op(B) into panels.
template <class T>
inline void pack_b(const GemmOperand<T>& b, int64_t column, int64_t columns, int64_t depth,
                   int64_t K, T* packed) {
  pack_operand<T, kTileColumns<T>>(b, b.transposed, column, columns, depth, K, packed);
}

/// Longest chain of one accumulator: longer K is cut into equal blocks, by K alone.
inline constexpr int64_t kMaxDepth = 512;
[[nodiscard]] constexpr int64_t depth_block(int64_t K) {
  const int64_t blocks = (K + kMaxDepth - 1) / kMaxDepth;
  return blocks <= 1 ? K : (K + blocks - 1) / blocks;
}

}  // namespace sluice::kernels
