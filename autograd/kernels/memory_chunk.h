#pragma once
// What the forward and the backward of gated_delta_rule share: one chunk of one head, its decays, and
// its masked products. Letters as there; everything inside a chunk is [n, C] or [n, width], C apart.

#include <algorithm>
#include <cstdint>
#include <span>

#include "autograd/kernels/gated_delta_rule.h"
#include "autograd/kernels/gemm.h"
#include "autograd/kernels/rows.h"
#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {

/// Rows of a chunk whose equations are solved one by one; those before them enter as a product.
inline constexpr int64_t kSolveRows = 16;

/// y[i] += factor * x[i]
template <class T>
inline void add_multiple(int64_t n, T factor, const T* x, T* y) {
  const Vec<T> factors = broadcast(factor);
  for_each_vector<T>(n, [&](int64_t i, int64_t count) {
    store_first(y + i, fma(factors, load_first(x + i, count), load_first(y + i, count)), count);
  });
}

/// y[i] = factor * x[i]
template <class T>
inline void put_multiple(int64_t n, T factor, const T* x, T* y) {
  const Vec<T> factors = broadcast(factor);
  for_each_vector<T>(n, [&](int64_t i, int64_t count) {
    store_first(y + i, factors * load_first(x + i, count), count);
  });
}

/// Where one head's rows of a chunk lie: token `first` is row 0, `n` of them, in arrays [N, H, width].
struct ChunkRows {
  int64_t first;
  int64_t n;
  int64_t H;
  int64_t h;

  [[nodiscard]] int64_t offset(int64_t row, int64_t width) const {
    return ((first + row) * H + h) * width;
  }
  /// The head's rows [n, width] as an operand.
  template <class T>
  [[nodiscard]] GemmOperand<T> operand(const T* x, int64_t width, bool transposed = false) const {
    return {x + offset(0, width), H * width, transposed};
  }
};

/// Decays and writing strengths of one chunk, and the products of its tokens with each other.
template <class T>
class MemoryChunk {
 public:
  MemoryChunk(ArenaScope& scratch, const MemoryShape& shape)
      : C_(shape.chunk),
        beta(scratch.allocate<T>(C_)),
        from_start(scratch.allocate<T>(C_)),
        to_end(scratch.allocate<T>(C_)),
        decay(scratch.allocate<T>(C_ * C_)),
        sums_(scratch.allocate<double>(C_)) {}

  /// Reads g and beta of the chunk's rows.
  void load(const ChunkRows& rows, const T* log_decay, const T* betas) {
    n_ = rows.n;
    decays_ = log_decay != nullptr;
    for (int64_t i = 0; i < n_; ++i) {
      beta[i] = betas == nullptr ? T{1} : betas[rows.offset(i, 1)];
    }
    total = T{1};
    if (!decays_) {
      std::fill_n(from_start, n_, T{1});
      std::fill_n(to_end, n_, T{1});
      return;
    }
    double sum = 0.0;
    for (int64_t i = 0; i < n_; ++i) {
      sums_[i] = sum += static_cast<double>(log_decay[rows.offset(i, 1)]);
    }
    for (int64_t i = 0; i < n_; ++i) {
      from_start[i] = static_cast<T>(sums_[i]);
      to_end[i] = static_cast<T>(sum - sums_[i]);
    }
    exp_array(n_, from_start, from_start);
    exp_array(n_, to_end, to_end);
    total = from_start[n_ - 1];
    for (int64_t i = 0; i < n_; ++i) {
      T* row = decay + i * C_;
      for (int64_t j = 0; j <= i; ++j) row[j] = static_cast<T>(sums_[i] - sums_[j]);
      exp_array(i + 1, row, row);
    }
  }

  /// product [n, C] . D below the diagonal, and on it when `with_diagonal`; 0 elsewhere.
  void mask(T* product, bool with_diagonal) const {
    for (int64_t i = 0; i < n_; ++i) {
      T* row = product + i * C_;
      const int64_t end = i + (with_diagonal ? 1 : 0);
      if (decays_) multiply(end, decay + i * C_, row);
      std::fill(row + end, row + n_, T{0});
    }
  }

  /// row[j] *= factor[j] for j < n.
  static void multiply(int64_t n, const T* factor, T* row) {
    for_each_vector<T>(n, [&](int64_t j, int64_t count) {
      store_first(row + j, load_first(row + j, count) * load_first(factor + j, count), count);
    });
  }

  /// a . b of the chunk's rows with each other: product [n, C] = alpha a b^T.
  void multiply_rows(int64_t width, GemmOperand<T> a, GemmOperand<T> b, T alpha, T* product) const {
    gemm_serial<T>({n_, n_, width}, a, {b.data, b.stride, true}, {product, C_, alpha, T{0}});
  }

  /// (1 + M) X = B with M [n, C] strictly lower; x [n, width] holds B and becomes X.
  void solve_lower(const T* m, int64_t width, T* x) const {
    for (int64_t r = 0; r < n_; r += kSolveRows) {
      const int64_t end = std::min(n_, r + kSolveRows);
      if (r > 0) {
        gemm_serial<T>({end - r, width, r}, {m + r * C_, C_}, {x, width},
                       {x + r * width, width, T{-1}, T{1}});
      }
      for (int64_t i = r + 1; i < end; ++i) {
        for (int64_t j = r; j < i; ++j) {
          add_multiple(width, -m[i * C_ + j], x + j * width, x + i * width);
        }
      }
    }
  }

  /// (1 + M)^T X = B.
  void solve_lower_transposed(const T* m, int64_t width, T* x) const {
    for (int64_t r = (n_ - 1) / kSolveRows * kSolveRows; r >= 0; r -= kSolveRows) {
      const int64_t end = std::min(n_, r + kSolveRows);
      if (end < n_) {
        gemm_serial<T>({end - r, width, n_ - end}, {m + end * C_ + r, C_, true},
                       {x + end * width, width}, {x + r * width, width, T{-1}, T{1}});
      }
      for (int64_t j = end - 2; j >= r; --j) {
        for (int64_t i = j + 1; i < end; ++i) {
          add_multiple(width, -m[i * C_ + j], x + i * width, x + j * width);
        }
      }
    }
  }

  [[nodiscard]] bool decays() const { return decays_; }

 private:
  int64_t C_;
  int64_t n_ = 0;
  bool decays_ = false;

 public:
  T* beta;         // [C]
  T* from_start;   // [C]: e^G_i
  T* to_end;       // [C]: e^(G_n - G_i)
  T* decay;        // [C, C]: D on and below the diagonal, only where decays()
  T total = T{1};  // e^G_n

 private:
  double* sums_;  // [C]: G
};

/// body(segment, head) for all of them, in parallel, the longest segments first.
template <class Body>
inline void for_each_memory(const MemoryShape& shape, std::span<const MemorySegment> segments,
                            Body&& body) {
  ArenaScope scratch(thread_arena());
  const auto count = static_cast<int64_t>(segments.size());
  auto* order = scratch.allocate<int64_t>(count);
  for (int64_t i = 0; i < count; ++i) order[i] = i;
  const auto length = [&](int64_t i) {
    const MemorySegment& s = segments[static_cast<size_t>(i)];
    return s.end - s.begin;
  };
  std::sort(order, order + count, [&](int64_t a, int64_t b) {
    return length(a) != length(b) ? length(a) > length(b) : a < b;
  });
  parallel_for(count * shape.H, [&](int64_t task) { body(order[task / shape.H], task % shape.H); });
}

}  // namespace sluice::kernels
