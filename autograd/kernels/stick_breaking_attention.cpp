#include "autograd/kernels/stick_breaking_attention.h"

#include <algorithm>

#include "autograd/kernels/attention_gradient_tiles.h"
#include "autograd/kernels/softplus.h"

namespace sluice::kernels {
namespace {

/// A stick is used up when less than e^-kUsedUp of it is left, 4e-18 in f32 and 2e-35 in f64: from
/// the next key on its weights are 0. What is left out is far below the rounding of what was taken,
/// which is then all of the stick; and no product of two small numbers gets denormal.
template <class T>
inline constexpr T kUsedUp = sizeof(T) == 4 ? T{40} : T{80};

/// How much of its stick each row of a panel has used, as the sum of softplus(z) over the keys seen
/// so far. Lanes without a row have used all of it.
template <class T>
struct Sticks {
  Sticks() = default;
  explicit Sticks(ArenaScope& scratch) : spent(scratch.allocate<T>(kPanelLanes<T>)) {}
  void start(int64_t count) const {
    std::fill_n(spent, count, T{0});
    std::fill(spent + count, spent + kPanelLanes<T>, std::numeric_limits<T>::infinity());
  }
  [[nodiscard]] bool are_used_up() const {
    return *std::min_element(spent, spent + kPanelLanes<T>) > kUsedUp<T>;
  }
  T* spent;  // [lanes]
};

/// x, or 0 where the stick was used up before.
template <class T>
[[nodiscard]] inline Vec<T> unless_used_up(Vec<T> spent_before, Vec<T> x) {
  return select_less(broadcast(kUsedUp<T>), spent_before, zeros<T>(), x);
}

/// Breaks the next piece off, A: the keys come newest first.
template <class T>
[[nodiscard]] inline Vec<T> break_off(Vec<T> z, Vec<T>& spent) {
  const Vec<T> before = spent;
  spent = spent + softplus(z);
  return unless_used_up(before, exp_of_negative(z - spent));
}

/// scores [keys, lanes] -> A, in place.
template <class T>
void break_sticks(int64_t keys, T* scores, const Sticks<T>& sticks) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  constexpr int64_t kVectors = kPanelLanes<T> / kWidth;
  Vec<T> spent[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) spent[v] = load(sticks.spent + v * kWidth);
  for (int64_t j = keys - 1; j >= 0; --j) {
    for (int64_t v = 0; v < kVectors; ++v) {
      T* s = scores + j * kPanelLanes<T> + v * kWidth;
      store(s, break_off(load(s), spent[v]));
    }
  }
  for (int64_t v = 0; v < kVectors; ++v) store(sticks.spent + v * kWidth, spent[v]);
}

/// The same, and grad_scores: <dO, V> -> dz. `rest` [lanes] is sum_l E_l over keys not yet seen.
template <class T>
void break_sticks_and_grad(int64_t keys, const Sticks<T>& sticks, T* rest, T* scores,
                           T* grad_scores) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  constexpr int64_t kVectors = kPanelLanes<T> / kWidth;
  const Vec<T> one = broadcast(T{1});
  Vec<T> spent[kVectors];
  Vec<T> older[kVectors];
  for (int64_t v = 0; v < kVectors; ++v) {
    spent[v] = load(sticks.spent + v * kWidth);
    older[v] = load(rest + v * kWidth);
  }
  for (int64_t j = keys - 1; j >= 0; --j) {
    for (int64_t v = 0; v < kVectors; ++v) {
      T* s = scores + j * kPanelLanes<T> + v * kWidth;
      T* g = grad_scores + j * kPanelLanes<T> + v * kWidth;
      const Vec<T> z = load(s);
      const Vec<T> before = spent[v];
      const Vec<T> weight = break_off(z, spent[v]);
      store(s, weight);
      const Vec<T> e = weight * load(g);
      older[v] = older[v] - e;
      // sigmoid(z) and 1 - sigmoid(z), one of them e^-|z| / (1 + e^-|z|); softplus has that
      // exponential too.
      const Vec<T> magnitude = exp(min(z, zeros<T>() - z));
      const Vec<T> inverse = one / (one + magnitude);
      const Vec<T> minor = magnitude * inverse;
      const Vec<T> taken = unless_used_up(before, select_less(z, zeros<T>(), minor, inverse));
      const Vec<T> left = select_less(z, zeros<T>(), inverse, minor);
      store(g, e * left - taken * older[v]);
    }
  }
  for (int64_t v = 0; v < kVectors; ++v) {
    store(sticks.spent + v * kWidth, spent[v]);
    store(rest + v * kWidth, older[v]);
  }
}

/// body(first key, keys) for the tiles of keys [0, end), newest first, until it gives false.
template <class Body>
void for_each_tile_backwards(int64_t end, Body&& body) {
  for (int64_t j = (end - 1) / kKeyTile * kKeyTile; j >= 0; j -= kKeyTile) {
    if (!body(j, std::min(kKeyTile, end - j))) return;
  }
}

template <class T>
struct PanelState {
  PanelState() = default;
  PanelState(ArenaScope& scratch, const HeadGroup& group)
      : query(scratch.allocate<T>(group.P * kPanelLanes<T>)),
        output(scratch.allocate<T>(group.V * kPanelLanes<T>)),
        sticks(scratch) {}
  T* query;   // [P, lanes], scaled
  T* output;  // [V, lanes]
  Sticks<T> sticks;
};

/// A few panels of one head group, rows first_row .. end_row - 1, against the keys they may see.
template <class T>
void forward_tile(const HeadGroup& group, double scale, int64_t first_row, int64_t end_row,
                  const AttentionForward<T>& args) {
  ArenaScope scratch(thread_arena());
  auto* panels = scratch.allocate<Panel<T>>(kPanelsPerTile);
  PanelState<T> states[kPanelsPerTile];
  PackedKeys<T> tile(scratch, group, args);
  T* scores = scratch.allocate<T>(kKeyTile * kPanelLanes<T>);
  T* ones = scratch.allocate<T>(kPanelLanes<T>);
  std::fill_n(ones, kPanelLanes<T>, T{1});
  int64_t count = 0;
  for (int64_t row = first_row; row < end_row; row += kPanelLanes<T>, ++count) {
    panels[count] = Panel<T>(group, row, std::min(kPanelLanes<T>, end_row - row));
    states[count] = PanelState<T>(scratch, group);
    states[count].sticks.start(panels[count].count);
    std::fill_n(states[count].output, group.V * kPanelLanes<T>, T{0});
    load_lanes(panels[count], group.P, args.q, static_cast<T>(scale), states[count].query);
  }
  for_each_tile_backwards(group.visible(first_row, end_row).end, [&](int64_t j, int64_t keys) {
    bool is_packed = false;
    bool is_pending = false;
    for (int64_t i = 0; i < count; ++i) {
      if (states[i].sticks.are_used_up()) continue;
      is_pending = true;
      const VisibleKeys<T> seen(panels[i], group, j, keys);
      if (seen.none()) continue;
      if (!is_packed) tile.load(group, j, keys, args);
      is_packed = true;
      multiply_panels(seen.keys(), group.P, group.P, tile.keys, states[i].query, scores, T{0});
      seen.mask(scores);
      break_sticks(seen.keys(), scores, states[i].sticks);
      multiply_panels(group.V, seen.keys(), keys, tile.values, scores, states[i].output, T{1});
    }
    return is_pending;
  });
  for (int64_t i = 0; i < count; ++i) {
    store_lanes(panels[i], group.V, states[i].output, ones, args.o, false);
  }
}

/// All gradients of rows [first_row, end_row) of a head group; dK and dV only of whole groups.
template <class T>
void backward_rows(const HeadGroup& group, double scale, int64_t first_row, int64_t end_row,
                   bool wants_key, const AttentionBackward<T>& args) {
  ArenaScope scratch(thread_arena());
  auto* panels = scratch.allocate<Panel<T>>(kPanelsPerTile);
  QueryOperands<T> queries[kPanelsPerTile];
  Sticks<T> sticks[kPanelsPerTile];
  for (int64_t i = 0; i < kPanelsPerTile; ++i) {
    queries[i] = QueryOperands<T>(scratch, group.P, group.V);
    sticks[i] = Sticks<T>(scratch);
  }
  KeyOperands<T> key(scratch, group.P, group.V);
  Meeting<T> to(scratch);
  if (wants_key && args.grad_k) to.grad_key = KeyGradient<T>(scratch, group.P, 0, group.keys());
  if (wants_key && args.grad_v) to.grad_value = KeyGradient<T>(scratch, group.V, 0, group.keys());
  T* rows = scratch.allocate<T>(kPanelLanes<T> * group.P);
  T* scales = scratch.allocate<T>(kPanelLanes<T>);
  std::fill_n(scales, kPanelLanes<T>, static_cast<T>(scale));

  constexpr int64_t kTileLanes = kPanelsPerTile * kPanelLanes<T>;
  for (int64_t first = first_row; first < end_row; first += kTileLanes) {
    const int64_t end = std::min(end_row, first + kTileLanes);
    int64_t count = 0;
    for (int64_t row = first; row < end; row += kPanelLanes<T>, ++count) {
      panels[count] = Panel<T>(group, row, std::min(kPanelLanes<T>, end - row));
      load_query(group, panels[count], scale, args, rows, queries[count]);
      sticks[count].start(panels[count].count);
    }
    for_each_tile_backwards(group.visible(first, end).end, [&](int64_t j, int64_t keys) {
      bool is_loaded = false;
      bool is_pending = false;
      for (int64_t i = 0; i < count; ++i) {
        if (sticks[i].are_used_up()) continue;
        is_pending = true;
        const VisibleKeys<T> seen(panels[i], group, j, keys);
        if (seen.none()) continue;
        if (!is_loaded) key.load(group, j, keys, args);
        is_loaded = true;
        multiply_panels(seen.keys(), group.P, group.P, key.keys_by_head, queries[i].query,
                        to.probabilities, T{0});
        seen.mask(to.probabilities);
        multiply_panels(seen.keys(), group.V, group.V, key.values_by_head, queries[i].grad_output,
                        to.grad_scores, T{0});
        break_sticks_and_grad(seen.keys(), sticks[i], queries[i].dot, to.probabilities,
                              to.grad_scores);
        add_to_gradients(panels[i].count, group.P, seen.keys(), queries[i], key,
                         static_cast<bool>(args.grad_q), to);
      }
      return is_pending;
    });
    if (!args.grad_q) continue;
    for (int64_t i = 0; i < count; ++i) {
      put_query_gradient(group, panels[i], queries[i].grad_query, scales, rows, args);
    }
  }
  if (to.grad_key) to.grad_key.put(group, nullptr, group.key_offset(0), args.grad_k);
  if (to.grad_value) to.grad_value.put(group, nullptr, group.value_offset(0), args.grad_v);
}

/// The shape without what is not read.
AttentionShape plain(AttentionShape shape) {
  shape.window = kNoWindow;
  shape.windows = nullptr;
  shape.chunks = nullptr;
  return shape;
}

constexpr int64_t kAll = std::numeric_limits<int64_t>::max();

}  // namespace

template <class T>
void stick_breaking_attention(const AttentionShape& shape,
                              std::span<const AttentionSegment> segments,
                              const AttentionForward<T>& args) {
  for_each_rectangle(plain(shape), segments, kPanelsPerTile * kPanelLanes<T>, kAll,
                     [&](const HeadGroup& group, const Rectangle& part) {
                       forward_tile(group, shape.scale, part.first_row, part.end_row, args);
                     });
}

template <class T>
void stick_breaking_attention_backward(const AttentionShape& shape,
                                       std::span<const AttentionSegment> segments,
                                       const AttentionBackward<T>& args) {
  const bool wants_key = args.grad_k || args.grad_v;
  for_each_rectangle(plain(shape), segments, wants_key ? kAll : kPanelsPerTile * kPanelLanes<T>,
                     kAll, [&](const HeadGroup& group, const Rectangle& part) {
                       backward_rows(group, shape.scale, part.first_row, part.end_row, wants_key,
                                     args);
                     });
}

#define SLUICE_INSTANTIATE(T)                                                                      \
  template void stick_breaking_attention(const AttentionShape&, std::span<const AttentionSegment>, \
                                         const AttentionForward<T>&);                              \
  template void stick_breaking_attention_backward(                                                 \
      const AttentionShape&, std::span<const AttentionSegment>, const AttentionBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
