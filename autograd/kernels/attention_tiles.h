#pragma once
// What the attentions share, softmax and stick-breaking, forward and backward: panels of queries,
// tiles of keys, scores.
//
// Everything is held transposed, queries as lanes: a panel is kTileColumns<T> query rows side by
// side, and a tile of scores is [keys, lanes]. So the score product is (packed keys) x (panel), its
// result is already the packed right operand of the products that follow, and maximum, exponential,
// sum and mask run over keys lane by lane, without a sum across a register.
//
// The G = H / K query heads of a key head are rows of the same panels (row r is token r / G, head r
// % G), so each key tile is packed once for all of them.

#include <algorithm>
#include <cstdint>
#include <limits>
#include <span>

#include "autograd/kernels/causal_attention.h"
#include "autograd/kernels/lanes.h"
#include "autograd/kernels/vector_math.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {

/// Query rows of a panel.
template <class T>
inline constexpr int64_t kPanelLanes = kLanes<T>;
/// Keys of a tile, counted from the segment's first key: whole panels of the left operand; with P =
/// 64 the packed tile and its scores are about 70 KiB of f32.
inline constexpr int64_t kKeyTile = 112 / kTileRows * kTileRows;
/// Panels that share one packing of a key tile; with P = 64 what they need is 512 KiB in the
/// backward.
inline constexpr int64_t kPanelsPerTile = 16;

/// The query rows of one segment that share one key head.
struct HeadGroup {
  HeadGroup(const AttentionShape& shape, const AttentionSegment& at, int64_t key_head_)
      : H(shape.H),
        K(shape.K),
        P(shape.P),
        V(shape.value_width()),
        G(shape.H / shape.K),
        key_head(key_head_),
        window(shape.window_of(key_head_)),
        heads_alternate(shape.heads_alternate),
        chunks(shape.chunks),
        segment(at) {}

  int64_t H, K, P, V, G;
  int64_t key_head;
  int64_t window;
  bool heads_alternate;
  const KeyChunks* chunks;
  AttentionSegment segment;

  [[nodiscard]] int64_t rows() const { return (segment.q_end - segment.q_begin) * G; }
  [[nodiscard]] int64_t keys() const { return segment.k_end - segment.k_begin; }
  /// The row's number among all (token, head) pairs: its place in lse, and times a width in q, o
  /// and their gradients.
  [[nodiscard]] int64_t pair(int64_t row) const {
    const int64_t head = heads_alternate ? row % G * K + key_head : key_head * G + row % G;
    return (segment.q_begin + row / G) * H + head;
  }
  /// Position in the segment, counted as keys are.
  [[nodiscard]] int64_t position(int64_t row) const {
    return keys() - (segment.q_end - segment.q_begin) + row / G;
  }
  /// Offset of a key's row in k, whose rows are K * P apart, and in v, K * V apart.
  [[nodiscard]] int64_t key_offset(int64_t key) const {
    return ((segment.k_begin + key) * K + key_head) * P;
  }
  [[nodiscard]] int64_t value_offset(int64_t key) const {
    return ((segment.k_begin + key) * K + key_head) * V;
  }
  /// Keys that some row in [begin, end) may see, from a tile boundary on.
  struct Keys {
    int64_t begin;
    int64_t end;
  };
  [[nodiscard]] Keys visible(int64_t begin, int64_t end) const {
    const int64_t first = position(begin);
    const int64_t oldest = window > first || chunks != nullptr ? 0 : first - window + 1;
    return {oldest / kKeyTile * kKeyTile, std::clamp<int64_t>(position(end - 1) + 1, 0, keys())};
  }
  /// Keys of the tile that begins with key `j`; no tile lies in two chunks.
  [[nodiscard]] int64_t tile_keys(int64_t j, int64_t end) const {
    const int64_t keys = std::min(kKeyTile, end - j);
    return chunks == nullptr ? keys : std::min(keys, chunks->chunk - j % chunks->chunk);
  }
  /// Was the query of this (token, head) pair given a chunk?
  [[nodiscard]] bool sees_chunk(int64_t pair, int64_t chunk) const {
    if (chunk < chunks->first) return true;
    const int32_t* chosen = chosen_by(pair);
    return std::find(chosen, chosen + chunks->per_query, chunk) != chosen + chunks->per_query;
  }
  /// [per_query]
  [[nodiscard]] const int32_t* chosen_by(int64_t pair) const {
    return chunks->chosen + (pair / H * K + key_head) * chunks->per_query;
  }
};

/// Rows [first, first + count) of a head group, as lanes.
template <class T>
struct Panel {
  Panel(const HeadGroup& group, int64_t first, int64_t count_) : count(count_) {
    for (int64_t lane = 0; lane < count; ++lane) {
      pair[lane] = group.pair(first + lane);
      position[lane] = group.position(first + lane);
    }
  }
  int64_t count;
  int64_t pair[kPanelLanes<T>];
  int64_t position[kPanelLanes<T>];
};

/// lanes[p, lane] = factor * x[pair(lane), p], p < width; lanes past the panel's count are 0.
template <class T>
void load_lanes(const Panel<T>& panel, int64_t width, const T* x, T factor, T* lanes) {
  load_lanes<T>(
      panel.count, width, [&](int64_t lane) { return x + panel.pair[lane] * width; }, factor,
      lanes);
}

/// The same of rows that turn on their way; `rows` is scratch of [lanes, P].
template <class T>
void load_turned_lanes(const Panel<T>& panel, const HeadGroup& group, const Rope<T>& rope,
                       const T* x, T factor, T* rows, T* lanes) {
  const int64_t P = group.P;
  for (int64_t lane = 0; lane < panel.count; ++lane) {
    T* row = rows + lane * P;
    rotate_head(rope, panel.pair[lane] / group.H, T{1}, x + panel.pair[lane] * P,
                [row](int64_t i, T value) { row[i] = value; });
  }
  load_lanes<T>(
      panel.count, P, [&](int64_t lane) { return rows + lane * P; }, factor, lanes);
}

/// rows[j, p] = k of key begin + j, turned: [keys, P] side by side.
template <class T>
void turn_keys(const HeadGroup& group, const Rope<T>& rope, int64_t begin, int64_t keys, const T* k,
               T* rows) {
  for (int64_t j = 0; j < keys; ++j) {
    T* row = rows + j * group.P;
    rotate_head(rope, group.segment.k_begin + begin + j, T{1}, k + group.key_offset(begin + j),
                [row](int64_t i, T value) { row[i] = value; });
  }
}

/// gradient[row] (+)= a row's gradient [P], turned back when there is a rope.
template <class T>
void put_turned_back(const Rope<T>* rope, int64_t token, int64_t P, const T* row,
                     const Gradient<T>& gradient) {
  if (rope == nullptr) {
    put_gradient(gradient, P, [row](int64_t i) { return row[i]; });
  } else if (gradient.accumulate) {
    rotate_head(*rope, token, T{-1}, row, [&](int64_t i, T value) { gradient.data[i] += value; });
  } else {
    rotate_head(*rope, token, T{-1}, row, [&](int64_t i, T value) { gradient.data[i] = value; });
  }
}

/// x[pair(lane), p] (+)= factors[lane] * lanes[p, lane], p < width
template <class T>
void store_lanes(const Panel<T>& panel, int64_t width, const T* lanes, const T* factors, T* x,
                 bool accumulate) {
  store_lanes<T>(
      panel.count, width, lanes, factors,
      [&](int64_t lane) { return x + panel.pair[lane] * width; }, accumulate);
}

/// Which chunks of keys any query of a panel sees, for the panels of a tile. Without KeyChunks, all.
template <class T>
class SeenChunks {
 public:
  SeenChunks(ArenaScope& scratch, const HeadGroup& group, int64_t panels) : group_(&group) {
    if (group.chunks == nullptr) return;
    count_ = ceil_div(group.keys(), group.chunks->chunk);
    seen_ = scratch.allocate<bool>(panels * count_);
  }
  void look(int64_t index, const Panel<T>& panel) const {
    if (seen_ == nullptr) return;
    bool* seen = seen_ + index * count_;
    const KeyChunks& chunks = *group_->chunks;
    const int64_t first = std::min(chunks.first, count_);
    std::fill_n(seen, first, true);
    std::fill(seen + first, seen + count_, false);
    for (int64_t lane = 0; lane < panel.count; ++lane) {
      const int32_t* chosen = group_->chosen_by(panel.pair[lane]);
      for (int64_t i = 0; i < chunks.per_query; ++i) {
        if (chosen[i] >= 0) seen[chosen[i]] = true;
      }
      const int64_t position = panel.position[lane];
      const int64_t oldest = group_->window > position ? 0 : position - group_->window + 1;
      for (int64_t c = oldest / chunks.chunk; c * chunks.chunk <= position; ++c) seen[c] = true;
    }
  }
  [[nodiscard]] bool contain(int64_t index, int64_t key) const {
    return seen_ == nullptr || seen_[index * count_ + key / group_->chunks->chunk];
  }

 private:
  const HeadGroup* group_;
  int64_t count_ = 0;
  bool* seen_ = nullptr;  // [panels, chunks]
};

/// Which keys of a tile each lane may see, as numbers within the tile.
template <class T>
struct VisibleKeys {
  VisibleKeys(const Panel<T>& panel, const HeadGroup& group, int64_t tile_begin,
              int64_t tile_keys) {
    const int64_t window = group.window;
    for (int64_t lane = 0; lane < kPanelLanes<T>; ++lane) {
      // Lanes past the count repeat the last row: they cost nothing extra and are never stored.
      const int64_t row = std::min(lane, panel.count - 1);
      const int64_t position = panel.position[row];
      const int64_t newest = std::clamp<int64_t>(position - tile_begin, -1, tile_keys - 1);
      const bool sees_all = window > position ||
                            (group.chunks != nullptr &&
                             group.sees_chunk(panel.pair[row], tile_begin / group.chunks->chunk));
      const int64_t oldest =
          sees_all ? 0 : std::clamp<int64_t>(position - window + 1 - tile_begin, 0, tile_keys);
      first[lane] = static_cast<T>(oldest);
      last[lane] = static_cast<T>(newest);
      least_first = std::min(least_first, oldest);
      most_first = std::max(most_first, oldest);
      least_last = std::min(least_last, newest);
      most_last = std::max(most_last, newest);
    }
  }
  T first[kPanelLanes<T>];
  T last[kPanelLanes<T>];
  int64_t least_first = std::numeric_limits<int64_t>::max();
  int64_t most_first = 0;
  int64_t least_last = std::numeric_limits<int64_t>::max();
  int64_t most_last = -1;

  [[nodiscard]] bool none() const { return most_last < least_first; }
  /// Keys worth computing: those past the last one that any lane sees are left out.
  [[nodiscard]] int64_t keys() const { return most_last + 1; }

  /// Scores of hidden keys become -infinity.
  void mask(T* scores) const {
    constexpr int64_t kWidth = Vec<T>::kWidth;
    const Vec<T> hidden = broadcast(-std::numeric_limits<T>::infinity());
    const auto mask_key = [&](int64_t j) {
      const Vec<T> key = broadcast(static_cast<T>(j));
      for (int64_t lane = 0; lane < kPanelLanes<T>; lane += kWidth) {
        T* s = scores + j * kPanelLanes<T> + lane;
        Vec<T> score = load(s);
        score = select_less(load(last + lane), key, hidden, score);
        store(s, select_less(key, load(first + lane), hidden, score));
      }
    };
    for (int64_t j = 0; j < std::min(most_first, keys()); ++j) mask_key(j);
    for (int64_t j = std::max(most_first, least_last + 1); j < keys(); ++j) mask_key(j);
  }
};

/// Elements of `rows` packed rows of depth K.
[[nodiscard]] constexpr int64_t packed_rows_size(int64_t rows, int64_t K) {
  return (rows + kTileRows - 1) / kTileRows * kTileRows * K;
}

/// A tile of keys and their values, packed as left operands.
template <class T>
struct PackedKeys {
  PackedKeys(ArenaScope& scratch, const HeadGroup& group, const AttentionForward<T>& args)
      : keys(scratch.allocate<T>(packed_rows_size(kKeyTile, group.P))),
        values(scratch.allocate<T>(packed_rows_size(group.V, kKeyTile))),
        turned(args.rope == nullptr ? nullptr : scratch.allocate<T>(kKeyTile * group.P)) {}

  void load(const HeadGroup& group, int64_t begin, int64_t count, const AttentionForward<T>& args) {
    MatrixRows<T> k{args.k + group.key_offset(begin), group.K * group.P};
    if (args.rope != nullptr) {
      turn_keys(group, *args.rope, begin, count, args.k, turned);
      k = {turned, group.P};
    }
    const int64_t stride = args.value_stride == 0 ? group.K * group.V : args.value_stride;
    const T* v = args.v + (group.segment.k_begin + begin) * stride + group.key_head * group.V;
    pack_transposing<T, kTileRows>(count, group.P, k, keys);
    pack_copying<T, kTileRows>(group.V, count, {v, stride}, values);
  }

  T* keys;    // k [keys, P]
  T* values;  // v^T [V, keys]
  T* turned;  // scratch: k [keys, P] side by side
};

/// A part of a head group's work: query rows by keys.
struct Rectangle {
  int64_t first_row;
  int64_t end_row;
  int64_t first_key;
  int64_t end_key;
};

/// Cuts every head group into rectangles of at most `rows` x `keys` (multiples of the tiles) and
/// calls body(group, rectangle) for each in parallel, those with most work first.
template <class Body>
void for_each_rectangle(const AttentionShape& shape, std::span<const AttentionSegment> segments,
                        int64_t rows, int64_t keys, Body&& body) {
  struct Task {
    const AttentionSegment* segment;
    int64_t key_head;
    Rectangle part;
    int64_t work;
    int64_t place;  // in the order of the visit, which std::stable_sort would take memory to keep
  };
  const auto visit = [&](auto&& take) {
    for (const AttentionSegment& segment : segments) {
      const HeadGroup group(shape, segment, 0);
      for (int64_t row = 0; row < group.rows(); row += std::min(rows, group.rows())) {
        for (int64_t key = 0; key < group.keys(); key += std::min(keys, group.keys())) {
          const int64_t end_row = row + std::min(rows, group.rows() - row);
          const int64_t end_key = key + std::min(keys, group.keys() - key);
          const int64_t seen = std::min(end_key, group.visible(row, end_row).end) - key;
          for (int64_t head = 0; head < shape.K; ++head) {
            const int64_t each = std::min(seen, shape.window_of(head));
            take(Task{&segment, head, {row, end_row, key, end_key}, (end_row - row) * each, 0});
          }
        }
      }
    }
  };
  int64_t count = 0;
  visit([&](const Task&) { ++count; });
  ArenaScope scratch(thread_arena());
  Task* tasks = scratch.allocate<Task>(count);
  int64_t next = 0;
  visit([&](const Task& task) {
    tasks[next] = task;
    tasks[next].place = next;
    ++next;
  });
  std::sort(tasks, tasks + count, [](const Task& a, const Task& b) {
    return a.work != b.work ? a.work > b.work : a.place < b.place;
  });
  parallel_for(count, [&](int64_t i) {
    body(HeadGroup(shape, *tasks[i].segment, tasks[i].key_head), tasks[i].part);
  });
}

}  // namespace sluice::kernels
