#include "autograd/kernels/ssd_scan.h"

#include "autograd/kernels/rows.h"
#include "autograd/kernels/softplus.h"
#include "autograd/kernels/ssd_chunks.h"

namespace sluice::kernels {
namespace {

/// d of a token's heads.
template <class T>
void find_step_sizes(const SsdShape& shape, const T* dt, const T* dt_bias, T* delta) {
  const Vec<T> lowest = broadcast(static_cast<T>(shape.dt_min));
  const Vec<T> highest = broadcast(static_cast<T>(shape.dt_max));
  for_each_vector<T>(shape.H, [&](int64_t h, int64_t count) {
    const Vec<T> raw = load_first(dt + h, count) + load_first(dt_bias + h, count);
    // The bounds come first: a NaN passes.
    store_first(delta + h, min(highest, max(lowest, softplus(raw))), count);
  });
}

/// What the outputs of a chunk's group share: C as lanes, and C_i . B_j.
template <class T>
struct GroupProducts {
  GroupProducts(ArenaScope& scratch, const SsdShape& shape, const Chunk& chunk, int64_t group,
                const SsdInputs<T>& in)
      : panels(panels_of<T>(chunk)),
        lanes(scratch.allocate<T>(panels * shape.N * kLanes<T>)),
        products(scratch.allocate<T>(panels * chunk.size * kLanes<T>)) {
    const int64_t N = shape.N;
    const T* B = in.B + chunk.begin * in.stride + group * N;
    const T* C = in.C + chunk.begin * in.stride + group * N;
    T* packed = scratch.allocate<T>(packed_left(chunk.size, N));
    pack_transposing<T, kTileRows>(chunk.size, N, {B, in.stride}, packed);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = panel * kLanes<T>;
      const int64_t count = panel_size<T>(chunk, panel);
      T* own = lanes + first * N;
      load_lanes<T>(
          count, N, [&](int64_t lane) { return C + (first + lane) * in.stride; }, T{1}, own);
      multiply_panels(first + count, N, N, packed, own, products + first * chunk.size, T{0});
    }
  }
  int64_t panels;
  T* lanes;     // [panels, N, lanes]
  T* products;  // [panels, keys, lanes], chunk.size keys apart
};

/// tile [keys, lanes] = M^T of one panel and head.
template <class T>
void find_weights(const HeadDecays<T>& head, const PanelDecays<T>& panel, int64_t count, T D,
                  const T* products, T* tile) {
  const int64_t keys = panel.first + count;
  for (int64_t j = 0; j < keys; ++j) {
    const Vec<T> d = broadcast(head.d[j]);
    for (int64_t lane = 0; lane < kLanes<T>; lane += Vec<T>::kWidth) {
      const int64_t at = j * kLanes<T> + lane;
      store(tile + at, load(products + at) * panel.between(head, j, lane) * d);
    }
    if (j >= panel.first) tile[j * kLanes<T> + j - panel.first] += D;
  }
}

/// Y of one head in one chunk; `state` [P, N] enters it, null for zeros.
template <class T>
void head_outputs(const SsdShape& shape, const Chunk& chunk, int64_t head,
                  const GroupProducts<T>& group, const HeadDecays<T>& decays, const T* state,
                  const SsdScan<T>& args) {
  const int64_t P = shape.P;
  const int64_t N = shape.N;
  ArenaScope scratch(thread_arena());
  T* tile = scratch.allocate<T>(chunk.size * kLanes<T>);
  T* packed_x = scratch.allocate<T>(packed_size<T>(P, chunk.size));
  const T* x = args.in.x + chunk.begin * args.in.stride + head * P;
  pack_copying<T, kTileColumns<T>>(P, chunk.size, {x, args.in.stride}, packed_x);
  T* packed_state = nullptr;
  T* from_start = nullptr;
  if (state != nullptr) {
    packed_state = scratch.allocate<T>(packed_size<T>(P, N));
    pack_transposing<T, kTileColumns<T>>(P, N, {state, N}, packed_state);
    from_start = scratch.allocate<T>(group.panels * kLanes<T>);
    std::fill_n(from_start, group.panels * kLanes<T>, T{0});
    decays.from_start(from_start);
  }
  for (int64_t panel = 0; panel < group.panels; ++panel) {
    const int64_t first = panel * kLanes<T>;
    const int64_t count = panel_size<T>(chunk, panel);
    const PanelDecays<T> own(decays, first, count);
    find_weights(decays, own, count, args.in.D[head], group.products + first * chunk.size, tile);
    const int64_t stride = shape.H * P;
    T* y = args.y + (chunk.begin + first) * stride + head * P;
    if (state != nullptr) {
      multiply_lane_rows(count, N, P, group.lanes + first * N, N, packed_state, y, stride, T{0});
      for (int64_t i = 0; i < count; ++i) {
        const Vec<T> weight = broadcast(from_start[first + i]);
        for_each_vector<T>(P, [row = y + i * stride, weight](int64_t p, int64_t present) {
          store_first(row + p, weight * load_first(row + p, present), present);
        });
      }
    }
    multiply_lane_rows(count, first + count, P, tile, chunk.size, packed_x, y, stride,
                       state != nullptr ? T{1} : T{0});
  }
}

/// The states between chunks.
template <class T>
void find_states(const SsdShape& shape, const Chunks& chunks, const Decays<T>& decays,
                 const SsdScan<T>& args) {
  const int64_t size = shape.P * shape.N;
  // Where the state behind a chunk belongs; null where nobody asks for it.
  const auto after = [&](int64_t c) -> T* {
    if (chunks[c].next_slot >= 0) return args.states + chunks[c].next_slot * shape.H * size;
    return c + 1 == chunks.count() ? args.last : nullptr;
  };
  const auto before = [&](int64_t c) -> const T* {
    if (chunks[c].slot >= 0) return args.states + chunks[c].slot * shape.H * size;
    return c == 0 ? args.initial : nullptr;
  };
  run_chain(
      shape, chunks, false,
      [&](int64_t c, HeadRange heads) {
        if (after(c) == nullptr) return;
        const Chunk& chunk = chunks[c];
        ArenaScope scratch(thread_arena());
        T* weights = scratch.allocate<T>(heads.size() * chunk.size);
        for (int64_t h = 0; h < heads.size(); ++h) {
          const HeadDecays<T> head(decays, chunk, heads.first + h);
          T* own = weights + h * chunk.size;
          head.to_end(own);
          for (int64_t t = 0; t < chunk.size; ++t) own[t] *= head.d[t];
        }
        sum_outer<T>(shape, chunk, heads, {args.in.x, args.in.stride}, {args.in.B, args.in.stride},
                     weights, after(c) + heads.first * size);
      },
      [&](int64_t c, HeadRange heads, int64_t begin, int64_t end) {
        if (after(c) == nullptr || before(c) == nullptr) return;
        for (int64_t h = heads.first; h < heads.end; ++h) {
          const T decay = HeadDecays<T>(decays, chunks[c], h).whole();
          const int64_t at = h * size + begin;
          add_decayed(end - begin, decay, before(c) + at, after(c) + at);
        }
      });
}

/// Heads of a task: enough tasks to go round, as few as possible besides, since each computes the
/// products of its group.
int64_t heads_per_task(const SsdShape& shape, int64_t chunks) {
  const int64_t wanted = 4 * num_threads();
  const int64_t heads = shape.H / shape.G;
  const int64_t ranges = ceil_div(wanted, std::max<int64_t>(1, chunks * shape.G));
  return ceil_div(heads, std::clamp<int64_t>(ranges, 1, heads));
}

}  // namespace

int64_t ssd_states(const SsdShape& shape, std::span<const int64_t> documents) {
  int64_t states = 0;
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    states += std::max<int64_t>(0, ceil_div(documents[d + 1] - documents[d], shape.chunk) - 1);
  }
  return states;
}

template <class T>
void ssd_scan(const SsdShape& shape, std::span<const int64_t> documents, const SsdScan<T>& args) {
  ArenaScope scratch(thread_arena());
  const Chunks chunks(scratch, shape, documents);
  const int64_t tokens = documents.empty() ? 0 : documents.back();
  const Decays<T> decays(scratch, shape, tokens);
  parallel_for(chunks.count(), [&](int64_t c) {
    const Chunk& chunk = chunks[c];
    for (int64_t t = chunk.begin; t < chunk.begin + chunk.size; ++t) {
      find_step_sizes(shape, args.dt + t * shape.H, args.dt_bias, args.delta + t * shape.H);
    }
    decays.find(shape, chunk, args.in.A_log, args.delta);
  });
  find_states(shape, chunks, decays, args);
  const HeadRanges ranges(shape, heads_per_task(shape, chunks.count()));
  parallel_for(chunks.count() * ranges.count(), [&](int64_t task) {
    const int64_t c = task / ranges.count();
    const Chunk& chunk = chunks[c];
    const HeadRange heads = ranges[task % ranges.count()];
    ArenaScope own(thread_arena());
    const GroupProducts<T> group(own, shape, chunk, heads.group(shape), args.in);
    const T* states = nullptr;
    if (chunk.slot >= 0) states = args.states + chunk.slot * shape.H * shape.P * shape.N;
    if (c == 0) states = args.initial;
    for (int64_t h = heads.first; h < heads.end; ++h) {
      head_outputs(shape, chunk, h, group, HeadDecays<T>(decays, chunk, h),
                   states == nullptr ? nullptr : states + h * shape.P * shape.N, args);
    }
  });
}

template <class T>
void ssd_step(const SsdShape& shape, int64_t tokens, const SsdScan<T>& args, T* state) {
  const auto& [H, P, G, N, chunk, dt_min, dt_max] = shape;
  const SsdInputs<T>& in = args.in;
  ArenaScope scratch(thread_arena());
  T* delta = scratch.allocate<T>(tokens * H);
  for (int64_t t = 0; t < tokens; ++t) {
    find_step_sizes(shape, args.dt + t * H, args.dt_bias, delta + t * H);
  }
  parallel_for_ranges(H, rows_per_block(P * N), [&](int64_t first, int64_t end) {
    for (int64_t h = first; h < end; ++h) {
      const T A = -std::exp(in.A_log[h]);
      for (int64_t t = 0; t < tokens; ++t) {
        const T d = delta[t * H + h];
        const Vec<T> decay = broadcast(std::exp(d * A));
        const T* B = in.B + t * in.stride + h / (shape.H / shape.G) * shape.N;
        const T* C = in.C + t * in.stride + h / (shape.H / shape.G) * shape.N;
        for (int64_t p = 0; p < shape.P; ++p) {
          const T x = in.x[t * in.stride + h * shape.P + p];
          const Vec<T> input = broadcast(d * x);
          T* row = state + (h * shape.P + p) * shape.N;
          const T y = vector_sum<T>(shape.N, [&](int64_t n, int64_t count) {
            const Vec<T> next =
                fma(decay, load_first(row + n, count), input * load_first(B + n, count));
            store_first(row + n, next, count);
            return next * load_first(C + n, count);
          });
          args.y[(t * shape.H + h) * shape.P + p] = in.D[h] * x + y;
        }
      }
    }
  });
}

#define SLUICE_INSTANTIATE(T)                                                              \
  template void ssd_scan<T>(const SsdShape&, std::span<const int64_t>, const SsdScan<T>&); \
  template void ssd_step<T>(const SsdShape&, int64_t, const SsdScan<T>&, T*);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
