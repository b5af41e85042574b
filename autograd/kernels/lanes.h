#pragma once
// Rows of a matrix side by side as lanes of registers: lanes[p * kLanes<T> + lane] is element p of
// row `lane`. A product whose right operand lies like this leaves its result like this too, so that
// products and what happens between them follow each other without packing again.

#include <algorithm>
#include <cstdint>

#include "autograd/kernels/gemm_micro.h"

namespace sluice::kernels {

/// Rows side by side: the width of a register tile.
template <class T>
inline constexpr int64_t kLanes = kTileColumns<T>;

/// lanes[p, lane] = factor * row_of(lane)[p] for p < depth; lanes from `count` on are 0, and
/// row_of is not asked for them.
template <class T, class RowOf>
inline void load_lanes(int64_t count, int64_t depth, RowOf&& row_of, T factor, T* lanes) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  const Vec<T> factors = broadcast(factor);
  for (int64_t lane = 0; lane < kLanes<T>; lane += kWidth) {
    const int64_t present = std::clamp<int64_t>(count - lane, 0, kWidth);
    const T* row[kWidth];
    for (int64_t i = 0; i < present; ++i) row[i] = row_of(lane + i);
    for (int64_t p = 0; p < depth; p += kWidth) {
      const int64_t width = std::min(kWidth, depth - p);
      Vec<T> block[kWidth];
      for (int64_t i = 0; i < kWidth; ++i) {
        block[i] = i < present ? factors * load_first(row[i] + p, width) : zeros<T>();
      }
      transpose(block);
      for (int64_t i = 0; i < width; ++i) store(lanes + (p + i) * kLanes<T> + lane, block[i]);
    }
  }
}

/// row_of(lane)[p] (+)= factors[lane] * lanes[p, lane] for lane < count and p < depth.
template <class T, class RowOf>
inline void store_lanes(int64_t count, int64_t depth, const T* lanes, const T* factors,
                        RowOf&& row_of, bool accumulate) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  for (int64_t lane = 0; lane < count; lane += kWidth) {
    const int64_t present = std::min(kWidth, count - lane);
    const Vec<T> factor = load(factors + lane);
    T* row[kWidth];
    for (int64_t i = 0; i < present; ++i) row[i] = row_of(lane + i);
    for (int64_t p = 0; p < depth; p += kWidth) {
      const int64_t width = std::min(kWidth, depth - p);
      Vec<T> block[kWidth];
      for (int64_t i = 0; i < kWidth; ++i) {
        block[i] = i < width ? factor * load(lanes + (p + i) * kLanes<T> + lane) : zeros<T>();
      }
      transpose(block);
      for (int64_t i = 0; i < present; ++i) {
        store_first(row[i] + p, accumulate ? load_first(row[i] + p, width) + block[i] : block[i],
                    width);
      }
    }
  }
}

/// result[row, lane] = (beta = 0) or += (beta = 1) sum over k < K of packed(row, k) lanes[k, lane].
/// The packed panels of kTileRows rows are `packed_depth` deep, K or more.
template <class T>
inline void multiply_panels(int64_t rows, int64_t K, int64_t packed_depth, const T* packed,
                            const T* lanes, T* result, T beta) {
  for (int64_t i = 0; i < rows; i += kTileRows) {
    multiply_tile<T>(std::min(kTileRows, rows - i), K, packed + i * packed_depth, lanes,
                     {result + i * kLanes<T>, kLanes<T>, kLanes<T>, T{1}, beta});
  }
}

}  // namespace sluice::kernels
