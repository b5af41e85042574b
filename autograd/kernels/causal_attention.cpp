#include "autograd/kernels/causal_attention.h"

#include <algorithm>
#include <cmath>

#include "autograd/kernels/attention_tiles.h"

namespace sluice::kernels {
namespace {

/// A panel's queries, and the running maximum, sum and output of its rows.
template <class T>
struct OnlineSoftmax {
  OnlineSoftmax() = default;
  OnlineSoftmax(ArenaScope& scratch, const HeadGroup& group)
      : query(scratch.allocate<T>(group.P * kPanelLanes<T>)),
        output(scratch.allocate<T>(group.V * kPanelLanes<T>)),
        maximum(scratch.allocate<T>(kPanelLanes<T>)),
        sum(scratch.allocate<T>(kPanelLanes<T>)) {
    std::fill_n(output, group.V * kPanelLanes<T>, T{0});
    std::fill_n(maximum, kPanelLanes<T>, -std::numeric_limits<T>::infinity());
    std::fill_n(sum, kPanelLanes<T>, T{0});
  }
  T* query;    // [P, lanes], scaled
  T* output;   // [V, lanes]
  T* maximum;  // [lanes]
  T* sum;      // [lanes]
};

/// scores [keys, lanes] -> e^(score - new maximum), in place; what was gathered before is rescaled
/// to it. All lanes in one pass: their chains of additions run side by side.
template <class T>
void fold_scores(int64_t keys, int64_t V, T* scores, const OnlineSoftmax<T>& state) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  constexpr int64_t kVectors = kPanelLanes<T> / kWidth;
  Vec<T> old_maximum[kVectors];
  Vec<T> maximum[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) {
    maximum[v] = old_maximum[v] = load(state.maximum + v * kWidth);
  }
  for (int64_t j = 0; j < keys; ++j) {
    for (int64_t v = 0; v < kVectors; ++v) {
      maximum[v] = max(load(scores + j * kPanelLanes<T> + v * kWidth), maximum[v]);
    }
  }
  Vec<T> shift[kVectors];
  Vec<T> alpha[kVectors];
  Vec<T> sum[kVectors];
  bool has_grown = false;
  for (int64_t v = 0; v < kVectors; ++v) {
    store(state.maximum + v * kWidth, maximum[v]);
    // A lane that has seen no key yet has maximum -inf; 0 instead keeps -inf - maximum from being
    // NaN.
    shift[v] = select_less(broadcast(-std::numeric_limits<T>::infinity()), maximum[v], maximum[v],
                           zeros<T>());
    alpha[v] = exp_of_negative(old_maximum[v] - shift[v]);
    sum[v] = alpha[v] * load(state.sum + v * kWidth);
    has_grown |=
        max_lanes(select_less(old_maximum[v], maximum[v], broadcast(T{1}), zeros<T>())) > T{0};
  }
  for (int64_t j = 0; j < keys; ++j) {
    for (int64_t v = 0; v < kVectors; ++v) {
      T* s = scores + j * kPanelLanes<T> + v * kWidth;
      const Vec<T> p = exp_of_negative(load(s) - shift[v]);
      store(s, p);
      sum[v] = sum[v] + p;
    }
  }
  for (int64_t v = 0; v < kVectors; ++v) store(state.sum + v * kWidth, sum[v]);
  if (!has_grown) return;
  for (int64_t p = 0; p < V; ++p) {
    for (int64_t v = 0; v < kVectors; ++v) {
      T* o = state.output + p * kPanelLanes<T> + v * kWidth;
      store(o, alpha[v] * load(o));
    }
  }
}

/// o = output / sum and lse = maximum + log sum; 0 and -inf for a row that saw no key.
template <class T>
void finish(const HeadGroup& group, const Panel<T>& panel, const OnlineSoftmax<T>& state,
            const AttentionForward<T>& args) {
  for (int64_t lane = 0; lane < kPanelLanes<T>; ++lane) {
    const T sum = state.sum[lane];
    if (args.lse != nullptr && lane < panel.count) {
      args.lse[panel.pair[lane]] = state.maximum[lane] + std::log(sum);
    }
    state.sum[lane] = sum > T{0} ? T{1} / sum : T{0};
  }
  store_lanes(panel, group.V, state.output, state.sum, args.o, false);
}

/// A few panels of one head group, rows first_row .. end_row - 1, against the keys they may see.
template <class T>
void forward_tile(const HeadGroup& group, double scale, int64_t first_row, int64_t end_row,
                  const AttentionForward<T>& args) {
  ArenaScope scratch(thread_arena());
  auto* panels = scratch.allocate<Panel<T>>(kPanelsPerTile);
  OnlineSoftmax<T> states[kPanelsPerTile];
  PackedKeys<T> tile(scratch, group, args);
  const SeenChunks<T> chunks(scratch, group, kPanelsPerTile);
  int64_t count = 0;
  for (int64_t row = first_row; row < end_row; row += kPanelLanes<T>, ++count) {
    panels[count] = Panel<T>(group, row, std::min(kPanelLanes<T>, end_row - row));
    states[count] = OnlineSoftmax<T>(scratch, group);
    chunks.look(count, panels[count]);
    if (args.rope == nullptr) {
      load_lanes(panels[count], group.P, args.q, static_cast<T>(scale), states[count].query);
    } else {
      load_turned_lanes(panels[count], group, *args.rope, args.q, static_cast<T>(scale),
                        tile.turned, states[count].query);
    }
  }
  T* scores = scratch.allocate<T>(kKeyTile * kPanelLanes<T>);

  const HeadGroup::Keys visible = group.visible(first_row, end_row);
  int64_t keys = 0;
  for (int64_t j = visible.begin; j < visible.end; j += keys) {
    keys = group.tile_keys(j, visible.end);
    bool is_packed = false;
    for (int64_t i = 0; i < count; ++i) {
      if (!chunks.contain(i, j)) continue;
      const VisibleKeys<T> seen(panels[i], group, j, keys);
      if (seen.none()) continue;
      if (!is_packed) tile.load(group, j, keys, args);
      is_packed = true;
      multiply_panels(seen.keys(), group.P, group.P, tile.keys, states[i].query, scores, T{0});
      seen.mask(scores);
      fold_scores(seen.keys(), group.V, scores, states[i]);
      multiply_panels(group.V, seen.keys(), keys, tile.values, scores, states[i].output, T{1});
    }
  }
  for (int64_t i = 0; i < count; ++i) finish(group, panels[i], states[i], args);
}

}  // namespace

template <class T>
void causal_attention(const AttentionShape& shape, std::span<const AttentionSegment> segments,
                      const AttentionForward<T>& args) {
  constexpr int64_t kAllKeys = std::numeric_limits<int64_t>::max();
  for_each_rectangle(shape, segments, kPanelsPerTile * kPanelLanes<T>, kAllKeys,
                     [&](const HeadGroup& group, const Rectangle& part) {
                       forward_tile(group, shape.scale, part.first_row, part.end_row, args);
                     });
}

template void causal_attention<float>(const AttentionShape&, std::span<const AttentionSegment>,
                                      const AttentionForward<float>&);
template void causal_attention<double>(const AttentionShape&, std::span<const AttentionSegment>,
                                       const AttentionForward<double>&);

}  // namespace sluice::kernels
