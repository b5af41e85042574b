#include "autograd/kernels/causal_conv1d.h"

#include <algorithm>

#include "autograd/kernels/rows.h"
#include "autograd/kernels/silu.h"

namespace sluice::kernels {
namespace {

// Taps that a loop over channels holds in registers; other widths take the general loop.
constexpr int64_t kUsualTaps = 4;
// Registers of channels that one walk over a block's tokens sums the gradient of the taps for.
constexpr int64_t kVectorsPerWalk = 4;

/// What a call's blocks share.
template <class T>
class Taps {
 public:
  Taps(ArenaScope& scratch, const CausalConv1dShape& shape, std::span<const int64_t> documents,
       const T* weight)
      : C(shape.C),
        K(shape.K),
        documents_(documents),
        weight_(scratch.allocate<T>(shape.C * shape.K)),
        zeros_(scratch.allocate<T>(shape.C)) {
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t c = 0; c < C; ++c) weight_[k * C + c] = weight[c * K + k];
    }
    std::fill_n(zeros_, C, T{0});
  }

  [[nodiscard]] int64_t tokens() const { return documents_.empty() ? 0 : documents_.back(); }
  /// weight[., k], side by side.
  [[nodiscard]] const T* weight(int64_t k) const { return weight_ + k * C; }
  [[nodiscard]] const T* zeros() const { return zeros_; }

  /// body(token, document's first token, document's end) for tokens begin .. end - 1.
  template <class Body>
  void for_each_token(int64_t begin, int64_t end, Body&& body) const {
    auto next = std::ranges::upper_bound(documents_, begin);
    for (int64_t t = begin; t < end; ++t) {
      while (*next <= t) ++next;
      body(t, *(next - 1), *next);
    }
  }

  /// rows[k] = the row that tap k of token t reads, for a document that starts at `first`.
  void find(int64_t t, int64_t first, const T* x, const T* history, const T** rows) const {
    for (int64_t k = 0; k < K; ++k) {
      const int64_t source = t - K + 1 + k;
      if (source >= first) {
        rows[k] = x + source * C;
      } else {
        rows[k] = history != nullptr && first == 0 ? history + (K - 1 + source) * C : zeros_;
      }
    }
  }

  const int64_t C;
  const int64_t K;

 private:
  std::span<const int64_t> documents_;
  T* weight_;  // [K, C]
  T* zeros_;   // [C]
};

/// put(c, count, bias[c] + sum_k weight[k, c] rows[k][c]) over all channels; kTaps = 0 asks K.
template <class T, int64_t kTaps, class Put>
inline void convolve(const Taps<T>& taps, const T* bias, const T* const* rows, Put&& put) {
  const int64_t K = kTaps == 0 ? taps.K : kTaps;
  for_each_vector<T>(taps.C, [&](int64_t c, int64_t count) {
    Vec<T> sum = bias == nullptr ? zeros<T>() : load_first(bias + c, count);
    for (int64_t k = 0; k < K; ++k) {
      sum = fma(load_first(taps.weight(k) + c, count), load_first(rows[k] + c, count), sum);
    }
    put(c, count, sum);
  });
}

/// The same chain of additions, whichever loop takes it.
template <class T, class Put>
inline void convolve(const Taps<T>& taps, const T* bias, const T* const* rows, Put&& put) {
  if (taps.K == kUsualTaps) {
    convolve<T, kUsualTaps>(taps, bias, rows, put);
  } else {
    convolve<T, 0>(taps, bias, rows, put);
  }
}

/// A block of tokens: the gradient of pre for its tokens and the K - 1 behind them.
template <class T>
struct Block {
  int64_t begin;
  int64_t end;
  const T** rows;  // [end - begin, K]: what the taps of each token read
  T* slope;        // [.., C]: grad_y silu'(pre) of tokens begin, begin + 1, ...
};

template <class T>
void find_slopes(const Taps<T>& taps, bool silu_follows, const CausalConv1dBackward<T>& args,
                 ArenaScope& scratch, Block<T>& block) {
  const int64_t C = taps.C;
  const int64_t limit = std::min(taps.tokens(), block.end + taps.K - 1);
  block.slope = scratch.allocate<T>((limit - block.begin) * C);
  block.rows = scratch.allocate<const T*>((limit - block.begin) * taps.K);
  taps.for_each_token(block.begin, limit, [&](int64_t t, int64_t first, int64_t /*end*/) {
    const T** rows = block.rows + (t - block.begin) * taps.K;
    taps.find(t, first, args.x, nullptr, rows);
    const T* grad_y = args.grad_y + t * C;
    T* slope = block.slope + (t - block.begin) * C;
    if (!silu_follows) {
      std::copy_n(grad_y, C, slope);
      return;
    }
    convolve(taps, args.bias, rows, [&](int64_t c, int64_t count, Vec<T> pre) {
      store_first(slope + c, load_first(grad_y + c, count) * silu_slope(pre, sigmoid(pre)), count);
    });
  });
}

/// grad_x[t] = sum over i < K of weight[K - 1 - i] slope[t + i], as far as the document goes.
template <class T>
void add_input_gradient(const Taps<T>& taps, const Block<T>& block, const Gradient<T>& grad_x) {
  const int64_t C = taps.C;
  taps.for_each_token(block.begin, block.end, [&](int64_t t, int64_t /*first*/, int64_t end) {
    const int64_t reach = std::min(taps.K, end - t);
    const T* slope = block.slope + (t - block.begin) * C;
    const Gradient<T> row = grad_x.from(t * C);
    for_each_vector<T>(C, [&](int64_t c, int64_t count) {
      Vec<T> sum = zeros<T>();
      for (int64_t i = 0; i < reach; ++i) {
        sum = fma(load_first(taps.weight(taps.K - 1 - i) + c, count),
                  load_first(slope + i * C + c, count), sum);
      }
      put_gradient(row, c, count, sum);
    });
  });
}

/// partial[k, c] = sum over the block's tokens of slope[t, c] rows[t, k][c], and partial[K, c] that
/// of slope[t, c], for kVectors registers of channels from `c` on, the last with `count` of them.
template <class T, int64_t kVectors>
inline void sum_taps(const Taps<T>& taps, const Block<T>& block, int64_t c, int64_t count,
                     int64_t first_tap, int64_t end_tap, T* partial) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  Vec<T> sums[kUsualTaps][kVectors];
  Vec<T> bias[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) {
    for (auto& sum : sums) sum[v] = zeros<T>();
    bias[v] = zeros<T>();
  }
  const auto load_channels = [&](const T* row, int64_t v) {
    return v + 1 < kVectors ? load(row + c + v * kWidth) : load_first(row + c + v * kWidth, count);
  };
  for (int64_t i = 0; i < block.end - block.begin; ++i) {
    const T* const* rows = block.rows + i * taps.K;
    for (int64_t v = 0; v < kVectors; ++v) {
      const Vec<T> slope = load_channels(block.slope + i * taps.C, v);
      bias[v] = bias[v] + slope;
#pragma GCC unroll 4
      for (int64_t k = 0; k < kUsualTaps; ++k) {
        if (first_tap + k >= end_tap) break;
        sums[k][v] = fma(slope, load_channels(rows[first_tap + k], v), sums[k][v]);
      }
    }
  }
  for (int64_t v = 0; v < kVectors; ++v) {
    const int64_t at = c + v * kWidth;
    const int64_t present = v + 1 < kVectors ? kWidth : count;
    for (int64_t k = first_tap; k < end_tap; ++k) {
      store_first(partial + k * taps.C + at, sums[k - first_tap][v], present);
    }
    store_first(partial + taps.K * taps.C + at, bias[v], present);
  }
}

template <class T>
void sum_taps(const Taps<T>& taps, const Block<T>& block, T* partial) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  constexpr int64_t kStep = kVectorsPerWalk * kWidth;
  for (int64_t k = 0; k < taps.K; k += kUsualTaps) {
    const int64_t end_tap = std::min(taps.K, k + kUsualTaps);
    int64_t c = 0;
    for (; c + kStep <= taps.C; c += kStep) {
      sum_taps<T, kVectorsPerWalk>(taps, block, c, kWidth, k, end_tap, partial);
    }
    for (; c < taps.C; c += kWidth) {
      sum_taps<T, 1>(taps, block, c, std::min(kWidth, taps.C - c), k, end_tap, partial);
    }
  }
}

}  // namespace

template <class T>
void causal_conv1d(const CausalConv1dShape& shape, std::span<const int64_t> documents,
                   const CausalConv1d<T>& args) {
  ArenaScope scratch(thread_arena());
  const Taps<T> taps(scratch, shape, documents, args.weight);
  parallel_for_ranges(taps.tokens(), rows_per_block(shape.C), [&](int64_t begin, int64_t end) {
    ArenaScope own(thread_arena());
    auto* rows = own.allocate<const T*>(shape.K);
    taps.for_each_token(begin, end, [&](int64_t t, int64_t first, int64_t /*end*/) {
      taps.find(t, first, args.x, args.history, rows);
      T* y = args.y + t * shape.C;
      if (shape.silu) {
        convolve(taps, args.bias, rows, [y](int64_t c, int64_t count, Vec<T> pre) {
          store_first(y + c, silu(pre), count);
        });
      } else {
        convolve(taps, args.bias, rows,
                 [y](int64_t c, int64_t count, Vec<T> pre) { store_first(y + c, pre, count); });
      }
    });
  });
}

template <class T>
void advance_history(const CausalConv1dShape& shape, int64_t n, const T* x, T* history) {
  const int64_t kept = shape.K - 1;
  const int64_t moved = std::max<int64_t>(0, kept - n);
  std::copy(history + (kept - moved) * shape.C, history + kept * shape.C, history);
  std::copy(x + (n - (kept - moved)) * shape.C, x + n * shape.C, history + moved * shape.C);
}

template <class T>
void causal_conv1d_backward(const CausalConv1dShape& shape, std::span<const int64_t> documents,
                            const CausalConv1dBackward<T>& args) {
  const auto& [C, K, silu_follows] = shape;
  ArenaScope scratch(thread_arena());
  const Taps<T> taps(scratch, shape, documents, args.weight);
  const bool wants_sums = args.grad_weight || args.grad_bias;
  // The sums of all taps and, behind them, of the bias: [K + 1, C].
  T* totals = wants_sums ? scratch.allocate<T>((K + 1) * C) : nullptr;
  const ColumnSums<T> sums(scratch, taps.tokens(), (K + 1) * C, {totals, false});
  sums.for_each_block([&, follows = silu_follows](int64_t begin, int64_t end, T* partial) {
    ArenaScope own(thread_arena());
    Block<T> block{begin, end, nullptr, nullptr};
    find_slopes(taps, follows, args, own, block);
    if (args.grad_x) add_input_gradient(taps, block, args.grad_x);
    if (partial != nullptr) sum_taps(taps, block, partial);
  });
  sums.finish();
  if (args.grad_weight) {
    put_gradient(args.grad_weight, C * K,
                 [&, C = C, K = K](int64_t i) { return totals[i % K * C + i / K]; });
  }
  if (args.grad_bias) {
    put_gradient(args.grad_bias, C, [&, C = C, K = K](int64_t c) { return totals[K * C + c]; });
  }
}

#define SLUICE_INSTANTIATE(T)                                                                 \
  template void causal_conv1d<T>(const CausalConv1dShape&, std::span<const int64_t>,          \
                                 const CausalConv1d<T>&);                                     \
  template void advance_history<T>(const CausalConv1dShape&, int64_t, const T*, T*);          \
  template void causal_conv1d_backward<T>(const CausalConv1dShape&, std::span<const int64_t>, \
                                          const CausalConv1dBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
