#include "autograd/kernels/causal_attention.h"

#include <algorithm>
#include <cmath>

#include "autograd/kernels/gemm.h"
#include "autograd/kernels/rows.h"
#include "autograd/kernels/vector_math.h"

namespace sluice::kernels {
namespace {

/// Scores of a tile are 64 KiB of f32: they and the operands of their products stay in L2.
constexpr int64_t kQueryTile = 128;
constexpr int64_t kKeyTile = 128;

/// Key positions are counted from the segment's first key; `shift` turns a query's number in the
/// segment into its position.
struct Segment {
  AttentionSegment at;
  [[nodiscard]] int64_t queries() const { return at.q_end - at.q_begin; }
  [[nodiscard]] int64_t keys() const { return at.k_end - at.k_begin; }
  [[nodiscard]] int64_t shift() const { return keys() - queries(); }
};

/// A tile of scores: queries i0 .. i0+rows-1, keys j0 .. j0+cols-1, counted inside the segment.
struct ScoreTile {
  int64_t i0;
  int64_t rows;
  int64_t j0;
  int64_t cols;
  int64_t shift;
  int64_t window;

  /// Columns first .. last-1 that row `row` may see.
  [[nodiscard]] int64_t first(int64_t row) const {
    const int64_t position = i0 + row + shift;
    if (window > position) return 0;
    return std::clamp<int64_t>(position - window + 1 - j0, 0, cols);
  }
  [[nodiscard]] int64_t last(int64_t row) const {
    return std::clamp<int64_t>(i0 + row + shift + 1 - j0, 0, cols);
  }
};

/// Key tiles that some query of i0 .. i1-1 may see: [begin, end) in keys, begin on a tile boundary.
struct KeyRange {
  int64_t begin;
  int64_t end;
};

KeyRange visible_keys(const AttentionShape& shape, const Segment& segment, int64_t i0, int64_t i1) {
  const int64_t first_position = i0 + segment.shift();
  const int64_t oldest = shape.window > first_position ? 0 : first_position - shape.window + 1;
  return {oldest / kKeyTile * kKeyTile, std::min(segment.keys(), i1 + segment.shift())};
}

/// Rows of one head: a [tokens, heads, P] array seen as a matrix.
template <class T>
T* head_rows(T* array, int64_t token, int64_t heads, int64_t head, int64_t P) {
  return array + (token * heads + head) * P;
}

// --- forward -------------------------------------------------------------------------------------

/// Running maximum, sum and output of a query tile.
template <class T>
struct OnlineSoftmax {
  T* m;  // [rows]
  T* l;  // [rows]
  T* o;  // [rows, P]
};

/// scores -> probabilities relative to the new maximum, 0 where masked; rescales what came before.
template <class T>
void fold_scores(const ScoreTile& tile, int64_t P, T* scores, const OnlineSoftmax<T>& state) {
  constexpr T kNothing = -std::numeric_limits<T>::infinity();
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* s = scores + row * kKeyTile;
    const int64_t first = tile.first(row);
    const int64_t last = tile.last(row);
    if (first >= last) {
      std::fill_n(s, tile.cols, T{0});
      continue;
    }
    const T m_new = std::max(state.m[row], max_of_array(last - first, s + first));
    const T alpha = state.m[row] == kNothing ? T{0} : std::exp(state.m[row] - m_new);
    const T sum = exp_shifted(last - first, s + first, m_new, s + first);
    std::fill_n(s, first, T{0});
    std::fill(s + last, s + tile.cols, T{0});
    state.l[row] = state.l[row] * alpha + sum;
    state.m[row] = m_new;
    if (alpha != T{1}) {
      for (int64_t p = 0; p < P; ++p) state.o[row * P + p] *= alpha;
    }
  }
}

template <class T>
void forward_tile(const AttentionShape& shape, const Segment& segment, int64_t head, int64_t i0,
                  const AttentionForward<T>& args) {
  const auto& [H, K, P, scale, window] = shape;
  const int64_t rows = std::min(kQueryTile, segment.queries() - i0);
  const int64_t key_head = head / (H / K);
  ArenaScope scratch(thread_arena());
  const OnlineSoftmax<T> state{scratch.allocate<T>(rows), scratch.allocate<T>(rows),
                               scratch.allocate<T>(rows * P)};
  std::fill_n(state.m, rows, -std::numeric_limits<T>::infinity());
  std::fill_n(state.l, rows, T{0});
  std::fill_n(state.o, rows * P, T{0});
  T* scores = scratch.allocate<T>(kQueryTile * kKeyTile);
  const T* q = head_rows(args.q, segment.at.q_begin + i0, H, head, P);
  const KeyRange keys = visible_keys(shape, segment, i0, i0 + rows);
  for (int64_t j0 = keys.begin; j0 < keys.end; j0 += kKeyTile) {
    const int64_t cols = std::min(kKeyTile, keys.end - j0);
    const ScoreTile tile{i0, rows, j0, cols, segment.shift(), window};
    const T* k = head_rows(args.k, segment.at.k_begin + j0, K, key_head, P);
    const T* v = head_rows(args.v, segment.at.k_begin + j0, K, key_head, P);
    gemm_serial<T>({rows, cols, P}, {q, H * P}, {k, K * P, true},
                   {scores, kKeyTile, static_cast<T>(scale)});
    fold_scores(tile, P, scores, state);
    gemm_serial<T>({rows, P, cols}, {scores, kKeyTile}, {v, K * P}, {state.o, P, T{1}, T{1}});
  }
  for (int64_t row = 0; row < rows; ++row) {
    T* o = head_rows(args.o, segment.at.q_begin + i0 + row, H, head, P);
    const T inverse = state.l[row] > 0 ? 1 / state.l[row] : T{0};
    for (int64_t p = 0; p < P; ++p) o[p] = state.o[row * P + p] * inverse;
    if (args.lse != nullptr) {
      args.lse[(segment.at.q_begin + i0 + row) * H + head] = state.m[row] + std::log(state.l[row]);
    }
  }
}

/// Segments, heads and query tiles as one list, the longest rows of keys first.
struct ForwardTask {
  int64_t segment;
  int64_t head;
  int64_t i0;
  int64_t keys;
};

// --- backward ------------------------------------------------------------------------------------

/// What the backward of one (segment, key head) keeps at hand.
template <class T>
struct BackwardScratch {
  T* p;   // [kQueryTile, kKeyTile]: P
  T* ds;  // [kQueryTile, kKeyTile]: dP, then scale dS
  T* d;   // [queries of the tile]: D
};

/// Zeros of the part of an overwritten gradient that belongs to `heads` heads from `head` on.
template <class T>
void zero_heads(const Gradient<T>& gradient, int64_t begin, int64_t end, int64_t heads,
                int64_t head, int64_t count, int64_t P) {
  if (!gradient || gradient.accumulate) return;
  for (int64_t token = begin; token < end; ++token) {
    std::fill_n(head_rows(gradient.data, token, heads, head, P), count * P, T{0});
  }
}

/// P from the scores and the saved log-sum-exp, and scale dS from dP.
template <class T>
void probabilities_and_ds(const ScoreTile& tile, const T* lse, int64_t lse_stride, T scale,
                          const BackwardScratch<T>& scratch) {
  for (int64_t row = 0; row < tile.rows; ++row) {
    T* p = scratch.p + row * kKeyTile;
    T* ds = scratch.ds + row * kKeyTile;
    const int64_t first = tile.first(row);
    const int64_t last = std::max(first, tile.last(row));
    std::fill_n(p, first, T{0});
    std::fill_n(ds, first, T{0});
    std::fill(p + last, p + tile.cols, T{0});
    std::fill(ds + last, ds + tile.cols, T{0});
    (void)exp_shifted(last - first, p + first, lse[row * lse_stride], p + first);
    const T d = scratch.d[row];
    for (int64_t col = first; col < last; ++col) ds[col] = scale * p[col] * (ds[col] - d);
  }
}

/// One query tile of one query head against one key tile.
template <class T>
void backward_tile(const AttentionShape& shape, const Segment& segment, int64_t head,
                   const ScoreTile& tile, const AttentionBackward<T>& args,
                   const BackwardScratch<T>& scratch) {
  const auto& [H, K, P, scale, window] = shape;
  const int64_t key_head = head / (H / K);
  const int64_t query = segment.at.q_begin + tile.i0;
  const int64_t key = segment.at.k_begin + tile.j0;
  const GemmOperand<T> q{head_rows(args.q, query, H, head, P), H * P};
  const GemmOperand<T> grad_o{head_rows(args.grad_o, query, H, head, P), H * P};
  const T* k = head_rows(args.k, key, K, key_head, P);
  const T* v = head_rows(args.v, key, K, key_head, P);
  for (int64_t row = 0; row < tile.rows; ++row) {
    const T* o = head_rows(args.o, query + row, H, head, P);
    const T* g = head_rows(args.grad_o, query + row, H, head, P);
    scratch.d[row] = lane_sum<T>(P, [=](int64_t p) { return g[p] * o[p]; });
  }
  gemm_serial<T>({tile.rows, tile.cols, P}, q, {k, K * P, true},
                 {scratch.p, kKeyTile, static_cast<T>(scale)});
  gemm_serial<T>({tile.rows, tile.cols, P}, grad_o, {v, K * P, true}, {scratch.ds, kKeyTile});
  probabilities_and_ds(tile, args.lse + query * H + head, H, static_cast<T>(scale), scratch);
  if (args.grad_v) {
    gemm_serial<T>({tile.cols, P, tile.rows}, {scratch.p, kKeyTile, true}, grad_o,
                   {head_rows(args.grad_v.data, key, K, key_head, P), K * P, T{1}, T{1}});
  }
  if (args.grad_q) {
    gemm_serial<T>({tile.rows, P, tile.cols}, {scratch.ds, kKeyTile}, {k, K * P},
                   {head_rows(args.grad_q.data, query, H, head, P), H * P, T{1}, T{1}});
  }
  if (args.grad_k) {
    gemm_serial<T>({tile.cols, P, tile.rows}, {scratch.ds, kKeyTile, true}, q,
                   {head_rows(args.grad_k.data, key, K, key_head, P), K * P, T{1}, T{1}});
  }
}

template <class T>
void backward_of_key_head(const AttentionShape& shape, const Segment& segment, int64_t key_head,
                          const AttentionBackward<T>& args) {
  const auto& [H, K, P, scale, window] = shape;
  const int64_t group = H / K;
  zero_heads(args.grad_q, segment.at.q_begin, segment.at.q_end, H, key_head * group, group, P);
  zero_heads(args.grad_k, segment.at.k_begin, segment.at.k_end, K, key_head, 1, P);
  zero_heads(args.grad_v, segment.at.k_begin, segment.at.k_end, K, key_head, 1, P);
  ArenaScope arena(thread_arena());
  const BackwardScratch<T> scratch{arena.allocate<T>(kQueryTile * kKeyTile),
                                   arena.allocate<T>(kQueryTile * kKeyTile),
                                   arena.allocate<T>(kQueryTile)};
  for (int64_t head = key_head * group; head < (key_head + 1) * group; ++head) {
    for (int64_t i0 = 0; i0 < segment.queries(); i0 += kQueryTile) {
      const int64_t rows = std::min(kQueryTile, segment.queries() - i0);
      const KeyRange keys = visible_keys(shape, segment, i0, i0 + rows);
      for (int64_t j0 = keys.begin; j0 < keys.end; j0 += kKeyTile) {
        const int64_t cols = std::min(kKeyTile, keys.end - j0);
        backward_tile(shape, segment, head, {i0, rows, j0, cols, segment.shift(), window}, args,
                      scratch);
      }
    }
  }
}

}  // namespace

template <class T>
void causal_attention(const AttentionShape& shape, std::span<const AttentionSegment> segments,
                      const AttentionForward<T>& args) {
  ArenaScope scratch(thread_arena());
  int64_t count = 0;
  for (const AttentionSegment& segment : segments) {
    count += ceil_div(segment.q_end - segment.q_begin, kQueryTile) * shape.H;
  }
  ForwardTask* tasks = scratch.allocate<ForwardTask>(count);
  int64_t next = 0;
  for (size_t s = 0; s < segments.size(); ++s) {
    const Segment segment{segments[s]};
    for (int64_t head = 0; head < shape.H; ++head) {
      for (int64_t i0 = 0; i0 < segment.queries(); i0 += kQueryTile) {
        const int64_t i1 = std::min(segment.queries(), i0 + kQueryTile);
        const KeyRange keys = visible_keys(shape, segment, i0, i1);
        tasks[next++] = {static_cast<int64_t>(s), head, i0, (i1 - i0) * (keys.end - keys.begin)};
      }
    }
  }
  std::stable_sort(tasks, tasks + count,
                   [](const ForwardTask& a, const ForwardTask& b) { return a.keys > b.keys; });
  parallel_for(count, [&](int64_t task) {
    forward_tile(shape, {segments[static_cast<size_t>(tasks[task].segment)]}, tasks[task].head,
                 tasks[task].i0, args);
  });
}

template <class T>
void causal_attention_backward(const AttentionShape& shape,
                               std::span<const AttentionSegment> segments,
                               const AttentionBackward<T>& args) {
  ArenaScope scratch(thread_arena());
  const auto count = static_cast<int64_t>(segments.size());
  int64_t* order = scratch.allocate<int64_t>(count);
  for (int64_t s = 0; s < count; ++s) order[s] = s;
  std::stable_sort(order, order + count, [&](int64_t a, int64_t b) {
    return Segment{segments[static_cast<size_t>(a)]}.keys() >
           Segment{segments[static_cast<size_t>(b)]}.keys();
  });
  parallel_for(count * shape.K, [&](int64_t task) {
    const Segment segment{segments[static_cast<size_t>(order[task / shape.K])]};
    backward_of_key_head(shape, segment, task % shape.K, args);
  });
}

#define SLUICE_INSTANTIATE(T)                                                                 \
  template void causal_attention<T>(const AttentionShape&, std::span<const AttentionSegment>, \
                                    const AttentionForward<T>&);                              \
  template void causal_attention_backward<T>(                                                 \
      const AttentionShape&, std::span<const AttentionSegment>, const AttentionBackward<T>&)
SLUICE_INSTANTIATE(float);
SLUICE_INSTANTIATE(double);
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
