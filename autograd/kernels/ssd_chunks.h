#pragma once
// What the forward and the backward of ssd_scan share: chunks, the decays inside them, the chain of
// states.
//
// Tokens are lanes, as in attention_tiles.h: a panel is kLanes<T> tokens of a chunk side by side,
// and a tile of M^T is [keys, lanes], where the keys are the chunk's tokens up to the panel's last.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "autograd/kernels/decay.h"
#include "autograd/kernels/lanes.h"
#include "autograd/kernels/ssd_scan.h"
#include "autograd/kernels/vector_math.h"
#include "autograd/support/arena.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {

/// Tokens begin .. begin + size - 1 of one document.
struct Chunk {
  int64_t begin;
  int64_t size;
  int64_t slot;       // of the state that enters it; -1: the first of its document
  int64_t next_slot;  // of the state that leaves it; -1: the last of its document
};

/// All chunks, document by document.
class Chunks {
 public:
  Chunks(ArenaScope& scratch, const SsdShape& shape, std::span<const int64_t> documents) {
    const auto pieces = static_cast<int64_t>(documents.size());
    int64_t count = 0;
    for (int64_t d = 0; d + 1 < pieces; ++d) {
      count += ceil_div(length(documents, d), shape.chunk);
    }
    list_ = scratch.allocate<Chunk>(count);
    document_ = scratch.allocate<int64_t>(pieces + 1);
    for (int64_t d = 0; d + 1 < pieces; ++d) {
      if (length(documents, d) == 0) continue;
      document_[documents_++] = count_;
      const int64_t end = documents[static_cast<size_t>(d) + 1];
      for (int64_t t = documents[static_cast<size_t>(d)]; t < end; t += shape.chunk) {
        const bool is_first = t == documents[static_cast<size_t>(d)];
        const bool is_last = t + shape.chunk >= end;
        list_[count_++] = {t, std::min(shape.chunk, end - t), is_first ? -1 : states_ - 1,
                           is_last ? -1 : states_};
        if (!is_last) ++states_;
      }
    }
    document_[documents_] = count_;
  }

  [[nodiscard]] int64_t count() const { return count_; }
  [[nodiscard]] const Chunk& operator[](int64_t c) const { return list_[c]; }
  /// Documents that have tokens, and the first chunk of each.
  [[nodiscard]] int64_t documents() const { return documents_; }
  [[nodiscard]] int64_t first_of(int64_t document) const { return document_[document]; }
  [[nodiscard]] int64_t states() const { return states_; }

 private:
  static int64_t length(std::span<const int64_t> documents, int64_t d) {
    return documents[static_cast<size_t>(d) + 1] - documents[static_cast<size_t>(d)];
  }
  Chunk* list_ = nullptr;
  int64_t* document_ = nullptr;
  int64_t count_ = 0;
  int64_t documents_ = 0;
  int64_t states_ = 0;
};

/// g of every token and head, summed in double and kept as two numbers of T, so that differences
/// keep their relative precision however long the chunk; and d, head by head.
template <class T>
struct Decays {
  Decays(ArenaScope& scratch, const SsdShape& shape, int64_t tokens_)
      : tokens(tokens_),
        high(scratch.allocate<T>(shape.H * tokens)),
        low(scratch.allocate<T>(shape.H * tokens)),
        d(scratch.allocate<T>(shape.H * tokens)) {}

  /// Those of a chunk, from its d: delta [T, H].
  void find(const SsdShape& shape, const Chunk& chunk, const T* A_log, const T* delta) const {
    for (int64_t h = 0; h < shape.H; ++h) {
      const double A = -std::exp(static_cast<double>(A_log[h]));
      double sum = 0.0;
      for (int64_t t = chunk.begin; t < chunk.begin + chunk.size; ++t) {
        const T step = delta[t * shape.H + h];
        sum += A * static_cast<double>(step);
        d[h * tokens + t] = step;
        high[h * tokens + t] = static_cast<T>(sum);
        low[h * tokens + t] = static_cast<T>(sum - static_cast<double>(high[h * tokens + t]));
      }
    }
  }

  int64_t tokens;
  T* high;  // [H, T]
  T* low;   // [H, T]
  T* d;     // [H, T]
};

/// One head in one chunk.
template <class T>
struct HeadDecays {
  HeadDecays(const Decays<T>& all, const Chunk& chunk, int64_t head)
      : size(chunk.size),
        high(all.high + head * all.tokens + chunk.begin),
        low(all.low + head * all.tokens + chunk.begin),
        d(all.d + head * all.tokens + chunk.begin) {}

  /// e^(g_i), the weight of the state that enters, for each token.
  void from_start(T* weights) const {
    for_each_vector<T>(size, [&](int64_t i, int64_t count) {
      store_first(weights + i, decay(load_first(high + i, count)), count);
    });
  }
  /// e^(g_q - g_i), what is left of each token's share in the state that leaves.
  void to_end(T* weights) const {
    const Vec<T> end_high = broadcast(high[size - 1]);
    const Vec<T> end_low = broadcast(low[size - 1]);
    for_each_vector<T>(size, [&](int64_t i, int64_t count) {
      const Vec<T> difference =
          (end_high - load_first(high + i, count)) + (end_low - load_first(low + i, count));
      store_first(weights + i, decay(difference), count);
    });
  }
  /// e^(g_q)
  [[nodiscard]] T whole() const { return decay(broadcast(high[size - 1])).v[0]; }

  int64_t size;
  const T* high;  // [size]
  const T* low;
  const T* d;
};

/// Tokens first .. first + count - 1 of a chunk as lanes, and g of each; -inf in lanes without a
/// token, whose decays are then 0.
template <class T>
struct PanelDecays {
  PanelDecays(const HeadDecays<T>& head, int64_t first_, int64_t count) : first(first_) {
    std::fill_n(high, kLanes<T>, -std::numeric_limits<T>::infinity());
    std::fill_n(low, kLanes<T>, T{0});
    std::copy_n(head.high + first, count, high);
    std::copy_n(head.low + first, count, low);
  }
  /// e^(g_i - g_j) for the lanes i from `lane` on: 0 where i < j.
  [[nodiscard]] Vec<T> between(const HeadDecays<T>& head, int64_t j, int64_t lane) const {
    if (j >= first + lane + Vec<T>::kWidth) return zeros<T>();
    Vec<T> difference =
        (load(high + lane) - broadcast(head.high[j])) + (load(low + lane) - broadcast(head.low[j]));
    if (j > first + lane) {
      const Vec<T> index = load(lane_index() + lane);
      difference = select_less(index, broadcast(static_cast<T>(j - first)),
                               broadcast(-std::numeric_limits<T>::infinity()), difference);
    }
    return decay(difference);
  }
  static const T* lane_index() {
    static constexpr auto kIndex = [] {
      struct {
        T at[static_cast<size_t>(kLanes<T>)];
      } result{};
      for (int64_t i = 0; i < kLanes<T>; ++i) result.at[i] = static_cast<T>(i);
      return result;
    }();
    return kIndex.at;
  }

  int64_t first;
  T high[static_cast<size_t>(kLanes<T>)];
  T low[static_cast<size_t>(kLanes<T>)];
};

/// Tokens of panel `panel` of a chunk.
template <class T>
[[nodiscard]] inline int64_t panel_size(const Chunk& chunk, int64_t panel) {
  return std::min(kLanes<T>, chunk.size - panel * kLanes<T>);
}
template <class T>
[[nodiscard]] inline int64_t panels_of(const Chunk& chunk) {
  return ceil_div(chunk.size, kLanes<T>);
}
/// The left operand lies in lanes: element (i, k) is lanes[k * kLanes<T> + i].
template <class T>
struct LaneRows {
  static constexpr int64_t kRowStep = 1;
  static constexpr int64_t kDepthStep = kLanes<T>;
};

/// rows [count, columns] (+)= the transpose of lanes [depth, lanes] times a packed right operand, whose
/// panels are `right_depth` deep. The rows are `stride` apart.
template <class T>
inline void multiply_lane_rows(int64_t count, int64_t depth, int64_t columns, const T* lanes,
                               int64_t right_depth, const T* right, T* rows, int64_t stride,
                               T beta) {
  for (int64_t c = 0; c < columns; c += kTileColumns<T>) {
    const int64_t width = std::min(kTileColumns<T>, columns - c);
    for (int64_t i = 0; i < count; i += kTileRows) {
      multiply_tile<T, LaneRows<T>>(std::min(kTileRows, count - i), depth, lanes + i,
                                    right + c * right_depth,
                                    {rows + i * stride + c, stride, width, T{1}, beta});
    }
  }
}

/// Elements of rows x depth packed as a left operand.
[[nodiscard]] constexpr int64_t packed_left(int64_t rows, int64_t depth) {
  return ceil_div(rows, kTileRows) * kTileRows * depth;
}

/// Heads first .. end - 1, all of one group.
struct HeadRange {
  int64_t first;
  int64_t end;
  [[nodiscard]] int64_t size() const { return end - first; }
  [[nodiscard]] int64_t group(const SsdShape& shape) const { return first / (shape.H / shape.G); }
};

/// Cuts the heads of every group into equal ranges of about `per_range`.
class HeadRanges {
 public:
  HeadRanges(const SsdShape& shape, int64_t per_range)
      : heads_(shape.H / shape.G),
        per_range_(std::clamp<int64_t>(per_range, 1, std::max<int64_t>(1, heads_))),
        per_group_(ceil_div(heads_, per_range_)),
        count_(shape.G * per_group_) {}
  [[nodiscard]] int64_t count() const { return count_; }
  [[nodiscard]] HeadRange operator[](int64_t i) const {
    const int64_t begin = i / per_group_ * heads_;
    const int64_t first = begin + i % per_group_ * per_range_;
    return {first, std::min(first + per_range_, begin + heads_)};
  }

 private:
  int64_t heads_;
  int64_t per_range_;
  int64_t per_group_;
  int64_t count_;
};

/// Rows of tokens: row t is data + t * stride.
template <class T>
struct TokenRows {
  const T* data;
  int64_t stride;
};

/// result [heads, P, N] = sum over the chunk's tokens of weight_t u_t (x) v_t, where u [.., H, P] is
/// x or dY, v [.., G, N] is B or C, and weights [heads of the range, size].
template <class T>
void sum_outer(const SsdShape& shape, const Chunk& chunk, HeadRange heads, TokenRows<T> u,
               TokenRows<T> v, const T* weights, T* result) {
  const auto& P = shape.P;
  const auto& N = shape.N;
  const int64_t rows = heads.size() * P;
  ArenaScope scratch(thread_arena());
  T* weighted = scratch.allocate<T>(chunk.size * rows);
  for (int64_t t = 0; t < chunk.size; ++t) {
    const T* from = u.data + (chunk.begin + t) * u.stride + heads.first * P;
    for (int64_t h = 0; h < heads.size(); ++h) {
      const Vec<T> weight = broadcast(weights[h * chunk.size + t]);
      for_each_vector<T>(P, [&](int64_t p, int64_t count) {
        store_first(weighted + t * rows + h * P + p, weight * load_first(from + h * P + p, count),
                    count);
      });
    }
  }
  T* left = scratch.allocate<T>(packed_size<T>(rows, chunk.size));
  pack_copying<T, kLanes<T>>(rows, chunk.size, {weighted, rows}, left);
  const T* first_v = v.data + chunk.begin * v.stride + heads.group(shape) * N;
  T* right = scratch.allocate<T>(packed_size<T>(N, chunk.size));
  pack_copying<T, kTileColumns<T>>(N, chunk.size, {first_v, v.stride}, right);
  for (int64_t row = 0; row < rows; row += kLanes<T>) {
    multiply_lane_rows(std::min(kLanes<T>, rows - row), chunk.size, N, left + row * chunk.size,
                       chunk.size, right, result + row * N, N, T{0});
  }
}

/// state += decay * before, over n elements: one rounding each, so that it does not matter where the
/// sum in `state` was computed.
template <class T>
void add_decayed(int64_t n, T decay, const T* before, T* state) {
  const Vec<T> factor = broadcast(decay);
  for_each_vector<T>(n, [&](int64_t i, int64_t count) {
    store_first(state + i, fma(factor, load_first(before + i, count), load_first(state + i, count)),
                count);
  });
}

/// Runs a chain of states, document by document: outer(chunk index, heads) computes what a chunk adds
/// by itself, link(chunk index, heads, begin, end) adds what came before it, decayed, for elements
/// begin .. end - 1 of each head's state. Links of a document are called in order, `is_reversed`
/// from its last chunk on. Documents x heads are one task each; where those are too few for the
/// threads, all the sums are computed first, in parallel over chunks.
template <class Outer, class Link>
void run_chain(const SsdShape& shape, const Chunks& chunks, bool is_reversed, Outer&& outer,
               Link&& link) {
  constexpr int64_t kHeadsPerTask = 4;
  constexpr int64_t kElementsPerTask = 1024;
  const int64_t state = shape.P * shape.N;
  const auto in_order = [&](int64_t document, auto&& body) {
    const int64_t first = chunks.first_of(document);
    const int64_t end = chunks.first_of(document + 1);
    for (int64_t i = 0; i < end - first; ++i) body(is_reversed ? end - 1 - i : first + i);
  };
  const int64_t tasks = chunks.documents() * shape.H;
  if (tasks >= 2 * num_threads() || chunks.count() == chunks.documents()) {
    const int64_t per_task = std::min(kHeadsPerTask, tasks / std::max(1, 4 * num_threads()));
    const HeadRanges ranges(shape, per_task);
    parallel_for(chunks.documents() * ranges.count(), [&](int64_t task) {
      const HeadRange heads = ranges[task % ranges.count()];
      in_order(task / ranges.count(), [&](int64_t c) {
        outer(c, heads);
        link(c, heads, int64_t{0}, state);
      });
    });
    return;
  }
  const HeadRanges ranges(shape, kHeadsPerTask);
  parallel_for(chunks.count() * ranges.count(),
               [&](int64_t task) { outer(task / ranges.count(), ranges[task % ranges.count()]); });
  const int64_t parts = ceil_div(state, kElementsPerTask);
  parallel_for(chunks.documents() * shape.H * parts, [&](int64_t task) {
    const int64_t head = task / parts % shape.H;
    const int64_t begin = task % parts * kElementsPerTask;
    in_order(task / parts / shape.H, [&](int64_t c) {
      link(c, HeadRange{head, head + 1}, begin, std::min(state, begin + kElementsPerTask));
    });
  });
}

}  // namespace sluice::kernels
