#include <algorithm>
#include <cmath>

#include "autograd/kernels/attention_tiles.h"
#include "autograd/kernels/causal_attention.h"
#include "autograd/kernels/rows.h"

namespace sluice::kernels {
namespace {

/// Everything about a panel that its meetings with key tiles need.
template <class T>
struct QueryOperands {
  QueryOperands() = default;
  QueryOperands(ArenaScope& scratch, int64_t P)
      : query(scratch.allocate<T>(P * kPanelLanes<T>)),
        grad_output(scratch.allocate<T>(P * kPanelLanes<T>)),
        grad_query(scratch.allocate<T>(P * kPanelLanes<T>)),
        query_rows(scratch.allocate<T>(packed_size<T>(P, kPanelLanes<T>))),
        grad_output_rows(scratch.allocate<T>(packed_size<T>(P, kPanelLanes<T>))),
        lse(scratch.allocate<T>(kPanelLanes<T>)),
        dot(scratch.allocate<T>(kPanelLanes<T>)) {}

  T* query;             // [P, lanes], scaled
  T* grad_output;       // [P, lanes]
  T* grad_query;        // [P, lanes], before the scale
  T* query_rows;        // the same as query, lanes as depth: packed right operand [lanes, P]
  T* grad_output_rows;  // likewise
  T* lse;               // [lanes]
  T* dot;               // [lanes]: D
};

/// rows[lane, p] = lanes[p, lane], packed as a right operand of depth `count`.
template <class T>
void pack_lane_rows(int64_t count, int64_t P, const T* lanes, T* rows) {
  // op(B) [count, P] is the transpose of [P, lanes] as it lies in memory.
  pack_b<T>({lanes, kPanelLanes<T>, true}, 0, P, 0, count, rows);
}

/// `turned` is scratch of [lanes, P].
template <class T>
void load_query(const HeadGroup& group, const Panel<T>& panel, double scale,
                const AttentionBackward<T>& args, T* turned, const QueryOperands<T>& to) {
  const int64_t P = panel.P;
  if (args.rope == nullptr) {
    load_lanes(panel, args.q, static_cast<T>(scale), to.query);
  } else {
    load_turned_lanes(panel, group, *args.rope, args.q, static_cast<T>(scale), turned, to.query);
  }
  load_lanes(panel, args.grad_o, T{1}, to.grad_output);
  pack_lane_rows(panel.count, P, to.query, to.query_rows);
  pack_lane_rows(panel.count, P, to.grad_output, to.grad_output_rows);
  std::fill_n(to.grad_query, P * kPanelLanes<T>, T{0});
  for (int64_t lane = 0; lane < kPanelLanes<T>; ++lane) {
    // e^(score - inf) = 0: lanes without a row, and rows that saw no key (lse = -inf), take no
    // part.
    to.lse[lane] = std::numeric_limits<T>::infinity();
    to.dot[lane] = T{0};
    if (lane >= panel.count) continue;
    const int64_t pair = panel.pair[lane];
    if (args.lse[pair] > -std::numeric_limits<T>::infinity()) to.lse[lane] = args.lse[pair];
    to.dot[lane] = row_dot(P, args.grad_o + pair * P, args.o + pair * P);
  }
}

/// A key tile, packed as the left operand of the three products it takes part in.
template <class T>
struct KeyOperands {
  KeyOperands(ArenaScope& scratch, int64_t P)
      : keys_by_head(scratch.allocate<T>(packed_rows_size(kKeyTile, P))),
        values_by_head(scratch.allocate<T>(packed_rows_size(kKeyTile, P))),
        head_by_keys(scratch.allocate<T>(packed_rows_size(P, kKeyTile))),
        turned(scratch.allocate<T>(kKeyTile * P)) {}

  void load(const HeadGroup& group, int64_t begin, int64_t count_,
            const AttentionBackward<T>& args) {
    first = begin;
    count = count_;
    const int64_t stride = group.K * group.P;
    MatrixRows<T> k{args.k + group.key_offset(begin), stride};
    if (args.rope != nullptr) {
      turn_keys(group, *args.rope, begin, count, args.k, turned);
      k = {turned, group.P};
    }
    pack_transposing<T, kTileRows>(count, group.P, k, keys_by_head);
    pack_transposing<T, kTileRows>(count, group.P, {args.v + group.key_offset(begin), stride},
                                   values_by_head);
    pack_copying<T, kTileRows>(group.P, count, k, head_by_keys);
  }

  T* keys_by_head;    // k [keys, P]
  T* values_by_head;  // v [keys, P]
  T* head_by_keys;    // k^T [P, keys]
  T* turned;          // scratch: k [keys, P] side by side
  int64_t first = 0;
  int64_t count = 0;
};

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

/// The gradient of k or v of a rectangle's keys, [keys, P] side by side while panels add to it: the
/// rows in memory lie apart.
template <class T>
class KeyGradient {
 public:
  KeyGradient() = default;
  KeyGradient(ArenaScope& scratch, int64_t P, int64_t first_key, int64_t keys)
      : P_(P), first_(first_key), keys_(keys), rows_(scratch.allocate<T>(keys * P)) {
    std::fill_n(rows_, keys * P, T{0});
  }
  [[nodiscard]] explicit operator bool() const { return rows_ != nullptr; }

  /// rows[key, p] += sum over lanes, in order, of weights[key, lane] lane_rows[lane, p] for `keys`
  /// keys from `first_key` on.
  void add(int64_t lanes, int64_t first_key, int64_t keys, const T* weights,
           const T* lane_rows) const {
    T* rows = rows_ + (first_key - first_) * P_;
    for (int64_t p = 0; p < P_; p += kTileColumns<T>) {
      const int64_t columns = std::min(kTileColumns<T>, P_ - p);
      for (int64_t j = 0; j < keys; j += kTileRows) {
        multiply_tile<T, ResultRows<T>>(std::min(kTileRows, keys - j), lanes,
                                        weights + j * kPanelLanes<T>, lane_rows + p * lanes,
                                        {rows + j * P_ + p, P_, columns, T{1}, T{1}});
      }
    }
  }
  void put(const HeadGroup& group, const Rope<T>* rope, const Gradient<T>& gradient) const {
    for (int64_t j = 0; j < keys_; ++j) {
      const int64_t key = first_ + j;
      put_turned_back(rope, group.segment.k_begin + key, P_, rows_ + j * P_,
                      gradient.from(group.key_offset(key)));
    }
  }

 private:
  int64_t P_ = 0;
  int64_t first_ = 0;
  int64_t keys_ = 0;
  T* rows_ = nullptr;
};

/// Which gradients a rectangle of (query rows) x (keys) adds to.
struct Wanted {
  bool query;
  bool key;
};

/// Scratch of a task: what meetings of panels and key tiles compute.
template <class T>
struct Meeting {
  explicit Meeting(ArenaScope& scratch)
      : probabilities(scratch.allocate<T>(kKeyTile * kPanelLanes<T>)),
        grad_scores(scratch.allocate<T>(kKeyTile * kPanelLanes<T>)) {}
  T* probabilities;         // [keys, lanes]
  T* grad_scores;           // [keys, lanes]
  KeyGradient<T> grad_key;  // either may be unwanted
  KeyGradient<T> grad_value;
};

/// One panel against one key tile.
template <class T>
void meet(const HeadGroup& group, const Panel<T>& panel, const QueryOperands<T>& query,
          const KeyOperands<T>& key, bool wants_query, const Meeting<T>& to) {
  const int64_t P = group.P;
  const VisibleKeys<T> seen(panel, group.window, key.first, key.count);
  if (seen.none()) return;
  const int64_t keys = seen.keys();
  multiply_panels(keys, P, P, key.keys_by_head, query.query, to.probabilities, T{0});
  seen.mask(to.probabilities);
  multiply_panels(keys, P, P, key.values_by_head, query.grad_output, to.grad_scores, T{0});
  probabilities_and_grad(keys, query, to.probabilities, to.grad_scores);
  if (to.grad_value) {
    to.grad_value.add(panel.count, key.first, keys, to.probabilities, query.grad_output_rows);
  }
  if (to.grad_key) {
    to.grad_key.add(panel.count, key.first, keys, to.grad_scores, query.query_rows);
  }
  if (wants_query) {
    multiply_panels(P, keys, key.count, key.head_by_keys, to.grad_scores, query.grad_query, T{1});
  }
}

/// The gradient of a panel's queries; `rows` is scratch of [lanes, P].
template <class T>
void put_query_gradient(const HeadGroup& group, const Panel<T>& panel, const T* lanes,
                        const T* scales, T* rows, const AttentionBackward<T>& args) {
  if (args.rope == nullptr) {
    return store_lanes(panel, lanes, scales, args.grad_q.data, args.grad_q.accumulate);
  }
  store_lanes<T>(
      panel.count, panel.P, lanes, scales, [&](int64_t lane) { return rows + lane * panel.P; },
      false);
  for (int64_t lane = 0; lane < panel.count; ++lane) {
    put_turned_back(args.rope, panel.pair[lane] / group.H, panel.P, rows + lane * panel.P,
                    args.grad_q.from(panel.pair[lane] * panel.P));
  }
}

/// Query tile by query tile, each against the keys it may see, both in increasing order: whatever
/// the rectangles, every gradient is added up in the same order.
template <class T>
void backward_rectangle(const HeadGroup& group, double scale, const Rectangle& part, Wanted wanted,
                        const AttentionBackward<T>& args) {
  ArenaScope scratch(thread_arena());
  auto* panels = scratch.allocate<Panel<T>>(kPanelsPerTile);
  QueryOperands<T> queries[kPanelsPerTile];
  for (QueryOperands<T>& query : queries) query = QueryOperands<T>(scratch, group.P);
  KeyOperands<T> key(scratch, group.P);
  Meeting<T> to(scratch);
  const int64_t part_keys = part.end_key - part.first_key;
  if (wanted.key && args.grad_k) {
    to.grad_key = KeyGradient<T>(scratch, group.P, part.first_key, part_keys);
  }
  if (wanted.key && args.grad_v) {
    to.grad_value = KeyGradient<T>(scratch, group.P, part.first_key, part_keys);
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
    }
    for (int64_t j = first_key; j < end_key; j += kKeyTile) {
      const int64_t keys = std::min(kKeyTile, end_key - j);
      key.load(group, j, keys, args);
      for (int64_t i = 0; i < count; ++i) {
        meet(group, panels[i], queries[i], key, wanted.query, to);
      }
    }
    if (!wanted.query) continue;
    for (int64_t i = 0; i < count; ++i) {
      put_query_gradient(group, panels[i], queries[i].grad_query, scales, rows, args);
    }
  }
  if (to.grad_key) to.grad_key.put(group, args.rope, args.grad_k);
  if (to.grad_value) to.grad_value.put(group, static_cast<const Rope<T>*>(nullptr), args.grad_v);
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
  constexpr int64_t kKeysPerTask = 2 * kKeyTile;
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
  run(kAll, kKeysPerTask, {.query = false, .key = true});
  if (wants_query) run(kRowsPerTask, kAll, {.query = true, .key = false});
}

template void causal_attention_backward<float>(const AttentionShape&,
                                               std::span<const AttentionSegment>,
                                               const AttentionBackward<float>&);
template void causal_attention_backward<double>(const AttentionShape&,
                                                std::span<const AttentionSegment>,
                                                const AttentionBackward<double>&);

}  // namespace sluice::kernels
