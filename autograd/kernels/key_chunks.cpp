#include "autograd/kernels/key_chunks.h"

#include <algorithm>

#include "autograd/kernels/lanes.h"
#include "autograd/support/parallel.h"

namespace sluice::kernels {
namespace {

/// The best chunks of one query and key head.
template <class T>
struct Best {
  int64_t count = 0;
  T* score;        // [b], falling
  int32_t* chunk;  // [b]

  void offer(int64_t b, int64_t candidate, T value) {
    if (count == b && !(value > score[b - 1])) return;
    int64_t at = count < b ? count++ : b - 1;
    for (; at > 0 && value > score[at - 1]; --at) {
      score[at] = score[at - 1];
      chunk[at] = chunk[at - 1];
    }
    score[at] = value;
    chunk[at] = static_cast<int32_t>(candidate);
  }
};

/// Candidates of the query at `position`: chunks first .. end-1.
[[nodiscard]] int64_t end_of_candidates(const ChunkChoice& choice, int64_t position) {
  const int64_t own = position / choice.chunk;
  if (choice.window > position) return 0;
  // Chunk c is inside the window when c chunk >= position - window + 1.
  return std::min(own, ceil_div(position - choice.window + 1, choice.chunk));
}

/// Consecutive queries as lanes: their scores with all candidates are one product per key head.
template <class T>
struct QueryLanes {
  QueryLanes(ArenaScope& scratch, const ChunkChoice& choice, int64_t candidates)
      : rows(scratch.allocate<T>(kLanes<T> * choice.K * choice.P)),
        lanes(scratch.allocate<T>(kLanes<T> * choice.P)),
        packed(scratch.allocate<T>(ceil_div(candidates, kTileRows) * kTileRows * choice.P)),
        scores(scratch.allocate<T>(candidates * kLanes<T>)),
        best(scratch.allocate<T>(std::max<int64_t>(1, choice.per_query))) {}
  T* rows;    // [lanes, K, P]: s_p
  T* lanes;   // [P, lanes] of one key head
  T* packed;  // sums of the candidates, as a left operand
  T* scores;  // [candidates, lanes]
  T* best;    // [b]
};

/// Of `count` queries from `position` on, whose sums are to.rows.
template <class T>
void choose_for(const ChunkChoice& choice, int64_t position, int64_t count, const T* sums,
                const QueryLanes<T>& to, int32_t* chosen) {
  const int64_t b = choice.per_query;
  const int64_t width = choice.K * choice.P;
  const int64_t candidates =
      std::max<int64_t>(0, end_of_candidates(choice, position + count - 1) - choice.first);
  for (int64_t head = 0; head < choice.K; ++head) {
    if (candidates > 0) {
      load_lanes<T>(
          count, choice.P, [&](int64_t lane) { return to.rows + lane * width + head * choice.P; },
          T{1}, to.lanes);
      pack_transposing<T, kTileRows>(
          candidates, choice.P, {sums + choice.first * width + head * choice.P, width}, to.packed);
      multiply_panels(candidates, choice.P, choice.P, to.packed, to.lanes, to.scores, T{0});
    }
    for (int64_t lane = 0; lane < count; ++lane) {
      Best<T> best{.score = to.best, .chunk = chosen + (lane * choice.K + head) * b};
      const int64_t own = end_of_candidates(choice, position + lane) - choice.first;
      for (int64_t c = 0; c < own && b > 0; ++c) {
        best.offer(b, choice.first + c, to.scores[c * kLanes<T> + lane]);
      }
      std::fill(best.chunk + best.count, best.chunk + b, -1);
    }
  }
}

/// sum [K, P] += q [H, P], over the query heads of each key head in order.
template <class T>
void add_query(const ChunkChoice& choice, const T* q, T* sum) {
  const int64_t G = choice.H / choice.K;
  for (int64_t h = 0; h < choice.H; ++h) {
    T* to = sum + h / G * choice.P;
    for (int64_t p = 0; p < choice.P; ++p) to[p] += q[h * choice.P + p];
  }
}

}  // namespace

template <class T>
void sum_key_chunks(const ChunkChoice& choice, int64_t begin, int64_t end, const T* k, T* sums) {
  const int64_t width = choice.K * choice.P;
  parallel_for_ranges(end - begin, 1, [&](int64_t from, int64_t) {
    const int64_t c = begin + from;
    T* sum = sums + c * width;
    std::fill_n(sum, width, T{0});
    for (int64_t row = c * choice.chunk; row < (c + 1) * choice.chunk; ++row) {
      for (int64_t i = 0; i < width; ++i) sum[i] += k[row * width + i];
    }
  });
}

template <class T>
void choose_key_chunks(const ChunkChoice& choice, const ChunkQueries<T>& args) {
  if (args.queries == 0) return;
  const int64_t width = choice.K * choice.P;
  const int64_t first_chunk = args.position / choice.chunk;
  const int64_t last = args.position + args.queries - 1;
  ArenaScope scratch(thread_arena());
  T* start = scratch.allocate<T>(width);
  std::fill_n(start, width, T{0});
  if (args.carry != nullptr && args.position % choice.chunk != 0) {
    std::copy_n(args.carry, width, start);
  }
  parallel_for_ranges(last / choice.chunk - first_chunk + 1, 1, [&](int64_t block, int64_t) {
    const int64_t begin = std::max(args.position, (first_chunk + block) * choice.chunk);
    const int64_t end = std::min(last + 1, (first_chunk + block + 1) * choice.chunk);
    ArenaScope inner(thread_arena());
    T* sum = inner.allocate<T>(width);
    if (block == 0) {
      std::copy_n(start, width, sum);
    } else {
      std::fill_n(sum, width, T{0});
    }
    const QueryLanes<T> lanes(
        inner, choice, std::max<int64_t>(0, end_of_candidates(choice, end - 1) - choice.first));
    for (int64_t position = begin; position < end; position += kLanes<T>) {
      const int64_t count = std::min(kLanes<T>, end - position);
      const int64_t i = position - args.position;
      for (int64_t lane = 0; lane < count; ++lane) {
        add_query(choice, args.q + (i + lane) * choice.H * choice.P, sum);
        std::copy_n(sum, width, lanes.rows + lane * width);
      }
      choose_for(choice, position, count, args.sums, lanes,
                 args.chosen + i * choice.K * choice.per_query);
    }
    if (args.carry != nullptr && end == last + 1) std::copy_n(sum, width, args.carry);
  });
}

#define SLUICE_INSTANTIATE(T)                                                       \
  template void sum_key_chunks(const ChunkChoice&, int64_t, int64_t, const T*, T*); \
  template void choose_key_chunks(const ChunkChoice&, const ChunkQueries<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
