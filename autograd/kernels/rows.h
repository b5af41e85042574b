#pragma once
// How the kernels cut a [rows, cols] array into blocks, and how they add numbers up.
//
// Everything here depends on the problem's size alone: the same array gives the same bits on any
// number of threads, and what happens in one row never depends on another.

#include <algorithm>
#include <cstdint>

#include "autograd/kernels/gradient.h"
#include "autograd/support/arena.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {

/// Elements that one block of a flat loop handles: 64 KiB of f32, so that two or three operands
/// stay in L2 and starting a block costs nothing beside it.
inline constexpr int64_t kElementBlock = 16384;

/// Rows of `cols` elements that make up about one element block.
[[nodiscard]] constexpr int64_t rows_per_block(int64_t cols) {
  return std::max<int64_t>(1, kElementBlock / std::max<int64_t>(1, cols));
}

/// body(row) for each row, in parallel over blocks of rows.
template <class Body>
void parallel_rows(int64_t rows, int64_t cols, Body&& body) {
  parallel_for_ranges(rows, rows_per_block(cols), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) body(row);
  });
}

/// sum over i in [0, n) of term(i, count), which gives the terms i .. i + count - 1 in the first
/// lanes of a register. Element i goes to lane i mod 4 kWidth as far as whole groups of four
/// registers go; registers and lanes are added as a binary tree: an order fixed by n, with an error
/// of about n / (4 kWidth) + 6 roundings.
template <class T, class Term>
[[nodiscard]] T vector_sum(int64_t n, Term&& term) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  Vec<T> a = zeros<T>();
  Vec<T> b = zeros<T>();
  Vec<T> c = zeros<T>();
  Vec<T> d = zeros<T>();
  int64_t i = 0;
  for (; i + 4 * kWidth <= n; i += 4 * kWidth) {
    a = a + term(i, kWidth);
    b = b + term(i + kWidth, kWidth);
    c = c + term(i + 2 * kWidth, kWidth);
    d = d + term(i + 3 * kWidth, kWidth);
  }
  for (; i + kWidth <= n; i += kWidth) a = a + term(i, kWidth);
  if (i < n) {
    T last[kWidth];
    store(last, term(i, n - i));
    b = b + load_first(last, n - i);
  }
  return sum_lanes((a + b) + (c + d));
}

/// sum_i x[i]
template <class T>
[[nodiscard]] T row_sum(int64_t n, const T* x) {
  return vector_sum<T>(n, [x](int64_t i, int64_t count) { return load_first(x + i, count); });
}

/// sum_i x[i] y[i]
template <class T>
[[nodiscard]] T row_dot(int64_t n, const T* x, const T* y) {
  return vector_sum<T>(n, [=](int64_t i, int64_t count) {
    return load_first(x + i, count) * load_first(y + i, count);
  });
}

/// Sums over rows, by fixed blocks of rows whose partial sums are added in block order, in f64:
///
///   ArenaScope scratch(thread_arena());
///   const ColumnSums<T> sums(scratch, rows, cols, grad_bias);  // a null destination switches it
///   off sums.for_each_block([&](int64_t begin, int64_t end, T* partial) { ... partial[col] += ...;
///   }); sums.finish();
template <class T>
class ColumnSums {
 public:
  /// `total` is [cols] or null; `scratch` must be a scope on the calling thread's arena.
  ColumnSums(ArenaScope& scratch, int64_t rows, int64_t cols, Gradient<T> total)
      : rows_(rows), cols_(cols), total_(total) {
    if (!total_) return;
    partials_ = scratch.allocate<T>(ceil_div(rows, block_rows(cols)) * cols);
    sums_ = scratch.allocate<double>(cols);
  }

  /// Rows per block: an element block, within limits that keep partial sums short and partials few.
  [[nodiscard]] static constexpr int64_t block_rows(int64_t cols) {
    return std::clamp<int64_t>(rows_per_block(cols), 32, 256);
  }

  /// The zeroed partial sums [cols] of the block that starts at `begin_row`, or null when switched
  /// off.
  [[nodiscard]] T* start_block(int64_t begin_row) const {
    if (!total_) return nullptr;
    T* partial = partials_ + begin_row / block_rows(cols_) * cols_;
    std::fill_n(partial, cols_, T{0});
    return partial;
  }

  /// body(begin, end, partial) for each block of rows, in parallel.
  template <class Body>
  void for_each_block(Body&& body) const {
    parallel_for_ranges(rows_, block_rows(cols_),
                        [&](int64_t begin, int64_t end) { body(begin, end, start_block(begin)); });
  }

  /// Leaves the sum of the blocks, added in block order, in the destination.
  void finish() const {
    if (!total_) return;
    std::fill_n(sums_, cols_, 0.0);
    for (int64_t block = 0; block < ceil_div(rows_, block_rows(cols_)); ++block) {
      const T* partial = partials_ + block * cols_;
      for (int64_t col = 0; col < cols_; ++col) sums_[col] += static_cast<double>(partial[col]);
    }
    put_gradient(total_, cols_, [this](int64_t col) { return static_cast<T>(sums_[col]); });
  }

 private:
  int64_t rows_;
  int64_t cols_;
  Gradient<T> total_;
  T* partials_ = nullptr;
  double* sums_ = nullptr;
};

}  // namespace sluice::kernels
