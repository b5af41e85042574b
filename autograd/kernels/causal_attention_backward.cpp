#include <algorithm>

#include "autograd/kernels/attention_gradient_tiles.h"

namespace sluice::kernels {
namespace {

/// probabilities: scores [keys, lanes] -> P; grad_scores: dP -> dS = P (dP - D).
template <class T>
void probabilities_and_grad(int64_t keys, const QueryOperands<T>& query, T* probabilities,
                            T* grad_scores) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  constexpr int64_t kVectors = kPanelLanes<T> / kWidth;
  Vec<T> lse[kVectors];
  Vec<T> dot[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) {
    lse[v] = load(query.lse + v * kWidth);
    dot[v] = load(query.dot + v * kWidth);
  }
  for (int64_t j = 0; j < keys; ++j) {
    for (int64_t v = 0; v < kVectors; ++v) {
      const int64_t at = j * kPanelLanes<T> + v * kWidth;
      // A score is below its row's lse but for rounding.
      const Vec<T> p = exp_of_negative(load(probabilities + at) - lse[v]);
      store(probabilities + at, p);
      store(grad_scores + at, p * (load(grad_scores + at) - dot[v]));
    }
  }
}

/// Which gradients a rectangle of (query rows) x (keys) adds to.
struct Wanted {
  bool query;
  bool key;
};

/// One panel against one key tile.
template <class T>
void meet(const HeadGroup& group, const Panel<T>& panel, const VisibleKeys<T>& seen,
          const QueryOperands<T>& query, const KeyOperands<T>& key, bool wants_query,
          const Meeting<T>& to) {
  const int64_t P = group.P;
  const int64_t V = group.V;
  const int64_t keys = seen.keys();
  multiply_panels(keys, P, P, key.keys_by_head, query.query, to.probabilities, T{0});
  seen.mask(to.probabilities);
  multiply_panels(keys, V, V, key.values_by_head, query.grad_output, to.grad_scores, T{0});
  probabilities_and_grad(keys, query, to.probabilities, to.grad_scores);
  add_to_gradients(panel.count, P, keys, query, key, wants_query, to);
}

/// Query tile by query tile, each against the keys it may see, both in increasing order: whatever
/// the rectangles, every gradient is added up in the same order.
template <class T>
void backward_rectangle(const HeadGroup& group, double scale, const Rectangle& part, Wanted wanted,
                        const AttentionBackward<T>& args) {
  ArenaScope scratch(thread_arena());
  auto* panels = scratch.allocate<Panel<T>>(kPanelsPerTile);
  QueryOperands<T> queries[kPanelsPerTile];
  for (QueryOperands<T>& query : queries) query = QueryOperands<T>(scratch, group.P, group.V);
  KeyOperands<T> key(scratch, group.P, group.V);
  const SeenChunks<T> chunks(scratch, group, kPanelsPerTile);
  Meeting<T> to(scratch);
  const int64_t part_keys = part.end_key - part.first_key;
  if (wanted.key && args.grad_k) {
    to.grad_key = KeyGradient<T>(scratch, group.P, part.first_key, part_keys);
  }
  if (wanted.key && args.grad_v) {
    to.grad_value = KeyGradient<T>(scratch, group.V, part.first_key, part_keys);
  }
  T* rows = scratch.allocate<T>(kPanelLanes<T> * group.P);
  T* scales = scratch.allocate<T>(kPanelLanes<T>);
  std::fill_n(scales, kPanelLanes<T>, static_cast<T>(scale));

  constexpr int64_t kTileLanes = kPanelsPerTile * kPanelLanes<T>;
  for (int64_t first = part.first_row; first < part.end_row; first += kTileLanes) {
    const int64_t end = std::min(part.end_row, first + kTileLanes);
    const HeadGroup::Keys visible = group.visible(first, end);
    const int64_t first_key = std::max(visible.begin, part.first_key);
    const int64_t end_key = std::min(visible.end, part.end_key);
    if (first_key >= end_key && !wanted.query) continue;
    int64_t count = 0;
    for (int64_t row = first; row < end; row += kPanelLanes<T>, ++count) {
      panels[count] = Panel<T>(group, row, std::min(kPanelLanes<T>, end - row));
      load_query(group, panels[count], scale, args, rows, queries[count]);
      chunks.look(count, panels[count]);
    }
    int64_t keys = 0;
    for (int64_t j = first_key; j < end_key; j += keys) {
      keys = group.tile_keys(j, end_key);
      bool is_loaded = false;
      for (int64_t i = 0; i < count; ++i) {
        if (!chunks.contain(i, j)) continue;
        const VisibleKeys<T> seen(panels[i], group, j, keys);
        if (seen.none()) continue;
        if (!is_loaded) key.load(group, j, keys, args);
        is_loaded = true;
        meet(group, panels[i], seen, queries[i], key, wanted.query, to);
      }
    }
    if (!wanted.query) continue;
    for (int64_t i = 0; i < count; ++i) {
      put_query_gradient(group, panels[i], queries[i].grad_query, scales, rows, args);
    }
  }
  if (to.grad_key) {
    to.grad_key.put(group, args.rope, group.key_offset(part.first_key), args.grad_k);
  }
  if (to.grad_value) {
    to.grad_value.put(group, nullptr, group.value_offset(part.first_key), args.grad_v);
  }
}

/// From this many head groups on, each is one task. Fewer are cut twice, by keys for dK and dV,
/// then by rows for dQ, which computes scores and dP a second time (7 products instead of 5).
/// Either way the sums are the same.
constexpr int64_t kEnoughGroups = 4;

}  // namespace

template <class T>
void causal_attention_backward(const AttentionShape& shape,
                               std::span<const AttentionSegment> segments,
                               const AttentionBackward<T>& args) {
  constexpr int64_t kAll = std::numeric_limits<int64_t>::max();
  constexpr int64_t kRowsPerTask = kPanelsPerTile * kPanelLanes<T>;
  // Whole tiles: where keys come in chunks, whole chunks.
  const int64_t chunk = shape.chunks == nullptr ? kKeyTile : shape.chunks->chunk;
  const int64_t keys_per_task = ceil_div(2 * kKeyTile, chunk) * chunk;
  const auto run = [&](int64_t rows, int64_t keys, Wanted wanted) {
    for_each_rectangle(shape, segments, rows, keys,
                       [&](const HeadGroup& group, const Rectangle& part) {
                         backward_rectangle(group, shape.scale, part, wanted, args);
                       });
  };
  const bool wants_key = args.grad_k || args.grad_v;
  const bool wants_query = static_cast<bool>(args.grad_q);
  if (static_cast<int64_t>(segments.size()) * shape.K >= kEnoughGroups || !wants_key) {
    run(wants_key ? kAll : kRowsPerTask, kAll, {.query = wants_query, .key = wants_key});
    return;
  }
  run(kAll, keys_per_task, {.query = false, .key = true});
  if (wants_query) run(kRowsPerTask, kAll, {.query = true, .key = false});
}

template void causal_attention_backward<float>(const AttentionShape&,
                                               std::span<const AttentionSegment>,
                                               const AttentionBackward<float>&);
template void causal_attention_backward<double>(const AttentionShape&,
                                                std::span<const AttentionSegment>,
                                                const AttentionBackward<double>&);

}  // namespace sluice::kernels
