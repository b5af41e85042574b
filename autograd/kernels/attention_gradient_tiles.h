#pragma once
// What the backwards of the attentions share: a panel's queries and a tile's keys as operands of the
// five products, and the gradients of keys and values while panels add to them.

#include <algorithm>

#include "autograd/kernels/attention_tiles.h"
#include "autograd/kernels/rows.h"

namespace sluice::kernels {

/// Everything about a panel that its meetings with key tiles need.
template <class T>
struct QueryOperands {
  QueryOperands() = default;
  QueryOperands(ArenaScope& scratch, int64_t P, int64_t V)
      : query(scratch.allocate<T>(P * kPanelLanes<T>)),
        grad_output(scratch.allocate<T>(V * kPanelLanes<T>)),
        grad_query(scratch.allocate<T>(P * kPanelLanes<T>)),
        query_rows(scratch.allocate<T>(packed_size<T>(P, kPanelLanes<T>))),
        grad_output_rows(scratch.allocate<T>(packed_size<T>(V, kPanelLanes<T>))),
        lse(scratch.allocate<T>(kPanelLanes<T>)),
        dot(scratch.allocate<T>(kPanelLanes<T>)) {}

  T* query;             // [P, lanes], scaled
  T* grad_output;       // [V, lanes]
  T* grad_query;        // [P, lanes], before the scale
  T* query_rows;        // the same as query, lanes as depth: packed right operand [lanes, P]
  T* grad_output_rows;  // likewise [lanes, V]
  T* lse;               // [lanes]
  T* dot;               // [lanes]: D
};

/// rows[lane, p] = lanes[p, lane], packed as a right operand of depth `count`.
template <class T>
void pack_lane_rows(int64_t count, int64_t width, const T* lanes, T* rows) {
  // op(B) [count, width] is the transpose of [width, lanes] as it lies in memory.
  pack_b<T>({lanes, kPanelLanes<T>, true}, 0, width, 0, count, rows);
}

/// `turned` is scratch of [lanes, P]. Without args.lse all lanes' lse is infinite.
template <class T>
void load_query(const HeadGroup& group, const Panel<T>& panel, double scale,
                const AttentionBackward<T>& args, T* turned, const QueryOperands<T>& to) {
  const int64_t P = group.P;
  const int64_t V = group.V;
  if (args.rope == nullptr) {
    load_lanes(panel, P, args.q, static_cast<T>(scale), to.query);
  } else {
    load_turned_lanes(panel, group, *args.rope, args.q, static_cast<T>(scale), turned, to.query);
  }
  load_lanes(panel, V, args.grad_o, T{1}, to.grad_output);
  pack_lane_rows(panel.count, P, to.query, to.query_rows);
  pack_lane_rows(panel.count, V, to.grad_output, to.grad_output_rows);
  std::fill_n(to.grad_query, P * kPanelLanes<T>, T{0});
  for (int64_t lane = 0; lane < kPanelLanes<T>; ++lane) {
    // e^(score - inf) = 0: lanes without a row, and rows that saw no key (lse = -inf), take no
    // part.
    to.lse[lane] = std::numeric_limits<T>::infinity();
    to.dot[lane] = T{0};
    if (lane >= panel.count) continue;
    const int64_t pair = panel.pair[lane];
    if (args.lse != nullptr && args.lse[pair] > -std::numeric_limits<T>::infinity()) {
      to.lse[lane] = args.lse[pair];
    }
    to.dot[lane] = row_dot(V, args.grad_o + pair * V, args.o + pair * V);
  }
}

/// A key tile, packed as the left operand of the three products it takes part in.
template <class T>
struct KeyOperands {
  KeyOperands(ArenaScope& scratch, int64_t P, int64_t V)
      : keys_by_head(scratch.allocate<T>(packed_rows_size(kKeyTile, P))),
        values_by_head(scratch.allocate<T>(packed_rows_size(kKeyTile, V))),
        head_by_keys(scratch.allocate<T>(packed_rows_size(P, kKeyTile))),
        turned(scratch.allocate<T>(kKeyTile * P)) {}

  void load(const HeadGroup& group, int64_t begin, int64_t count_,
            const AttentionBackward<T>& args) {
    first = begin;
    count = count_;
    MatrixRows<T> k{args.k + group.key_offset(begin), group.K * group.P};
    if (args.rope != nullptr) {
      turn_keys(group, *args.rope, begin, count, args.k, turned);
      k = {turned, group.P};
    }
    pack_transposing<T, kTileRows>(count, group.P, k, keys_by_head);
    pack_transposing<T, kTileRows>(
        count, group.V, {args.v + group.value_offset(begin), group.K * group.V}, values_by_head);
    pack_copying<T, kTileRows>(group.P, count, k, head_by_keys);
  }

  T* keys_by_head;    // k [keys, P]
  T* values_by_head;  // v [keys, V]
  T* head_by_keys;    // k^T [P, keys]
  T* turned;          // scratch: k [keys, P] side by side
  int64_t first = 0;
  int64_t count = 0;
};

/// The gradient of k or v of a rectangle's keys, [keys, width] side by side while panels add to it:
/// the rows in memory lie apart.
template <class T>
class KeyGradient {
 public:
  KeyGradient() = default;
  KeyGradient(ArenaScope& scratch, int64_t width, int64_t first_key, int64_t keys)
      : width_(width), first_(first_key), keys_(keys), rows_(scratch.allocate<T>(keys * width)) {
    std::fill_n(rows_, keys * width, T{0});
  }
  [[nodiscard]] explicit operator bool() const { return rows_ != nullptr; }

  /// rows[key, p] += sum over lanes, in order, of weights[key, lane] lane_rows[lane, p] for `keys`
  /// keys from `first_key` on.
  void add(int64_t lanes, int64_t first_key, int64_t keys, const T* weights,
           const T* lane_rows) const {
    T* rows = rows_ + (first_key - first_) * width_;
    for (int64_t p = 0; p < width_; p += kTileColumns<T>) {
      const int64_t columns = std::min(kTileColumns<T>, width_ - p);
      for (int64_t j = 0; j < keys; j += kTileRows) {
        multiply_tile<T, ResultRows<T>>(std::min(kTileRows, keys - j), lanes,
                                        weights + j * kPanelLanes<T>, lane_rows + p * lanes,
                                        {rows + j * width_ + p, width_, columns, T{1}, T{1}});
      }
    }
  }
  /// `offset` is that of the rectangle's first row in `gradient`, whose rows are K widths apart.
  void put(const HeadGroup& group, const Rope<T>* rope, int64_t offset,
           const Gradient<T>& gradient) const {
    for (int64_t j = 0; j < keys_; ++j) {
      put_turned_back(rope, group.segment.k_begin + first_ + j, width_, rows_ + j * width_,
                      gradient.from(offset + j * group.K * width_));
    }
  }

 private:
  int64_t width_ = 0;
  int64_t first_ = 0;
  int64_t keys_ = 0;
  T* rows_ = nullptr;
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

/// From probabilities [keys, lanes] and the gradient of the scores: dV += P^T dO, dK += dS^T scale Q,
/// and dQ, before its scale, += dS K.
template <class T>
void add_to_gradients(int64_t lanes, int64_t P, int64_t keys, const QueryOperands<T>& query,
                      const KeyOperands<T>& key, bool wants_query, const Meeting<T>& to) {
  if (to.grad_value) {
    to.grad_value.add(lanes, key.first, keys, to.probabilities, query.grad_output_rows);
  }
  if (to.grad_key) {
    to.grad_key.add(lanes, key.first, keys, to.grad_scores, query.query_rows);
  }
  if (wants_query) {
    multiply_panels(P, keys, key.count, key.head_by_keys, to.grad_scores, query.grad_query, T{1});
  }
}

/// The gradient of a panel's queries; `rows` is scratch of [lanes, P].
template <class T>
void put_query_gradient(const HeadGroup& group, const Panel<T>& panel, const T* lanes,
                        const T* scales, T* rows, const AttentionBackward<T>& args) {
  const int64_t P = group.P;
  if (args.rope == nullptr) {
    return store_lanes(panel, P, lanes, scales, args.grad_q.data, args.grad_q.accumulate);
  }
  store_lanes<T>(
      panel.count, P, lanes, scales, [&](int64_t lane) { return rows + lane * P; }, false);
  for (int64_t lane = 0; lane < panel.count; ++lane) {
    put_turned_back(args.rope, panel.pair[lane] / group.H, P, rows + lane * P,
                    args.grad_q.from(panel.pair[lane] * P));
  }
}

}  // namespace sluice::kernels
