#include "autograd/kernels/selective_scan.h"

#include <algorithm>

#include "autograd/kernels/decay.h"
#include "autograd/kernels/rows.h"
#include "autograd/kernels/softplus.h"

namespace sluice::kernels {
namespace {

// Registers of channels of a task, whose shares of dB and dC are added up in registers' lanes.
constexpr int64_t kVectorsPerBlock = 4;
template <class T>
constexpr int64_t kBlock = kVectorsPerBlock* Vec<T>::kWidth;
// Tokens that documents are gathered to before another task takes the next ones: each such run
// holds a gradient of A of its own.
constexpr int64_t kTokensPerRun = 512;

int64_t tokens_of(std::span<const int64_t> documents) {
  return documents.empty() ? 0 : documents.back();
}

template <class T>
int64_t blocks_of(const SelectiveShape& shape) {
  return ceil_div(shape.E, kBlock<T>);
}

/// A document, and the first of its kept states.
struct Document {
  int64_t begin;
  int64_t end;
  int64_t slot;
};

/// Consecutive documents, in runs.
struct Documents {
  Documents(ArenaScope& scratch, std::span<const int64_t> offsets)
      : list(scratch.allocate<Document>(static_cast<int64_t>(offsets.size()) + 1)),
        run_end(scratch.allocate<int64_t>(static_cast<int64_t>(offsets.size()) + 1)) {
    int64_t slot = 0;
    int64_t run_begin = 0;
    for (size_t d = 0; d + 1 < offsets.size(); ++d) {
      const int64_t length = offsets[d + 1] - offsets[d];
      if (length == 0) continue;
      list[count++] = {offsets[d], offsets[d + 1], slot};
      slot += ceil_div(length, kSelectiveSegment) - 1;
      if (offsets[d + 1] - run_begin < kTokensPerRun) continue;
      run_end[runs++] = count;
      run_begin = offsets[d + 1];
    }
    if (count > 0 && (runs == 0 || run_end[runs - 1] < count)) run_end[runs++] = count;
  }
  [[nodiscard]] int64_t run_begin(int64_t run) const { return run == 0 ? 0 : run_end[run - 1]; }

  Document* list;
  int64_t* run_end;
  int64_t count = 0;
  int64_t runs = 0;
};

/// One register of channels.
template <class T>
struct Channels {
  int64_t first;
  int64_t count;
  Vec<T> bias;
  Vec<T> D;
  Vec<T>* A;  // [N]

  Channels(ArenaScope& scratch, const SelectiveShape& shape, const SelectiveInputs<T>& in,
           int64_t first_)
      : first(first_),
        count(std::min(Vec<T>::kWidth, shape.E - first_)),
        bias(load_first(in.dt_bias + first, count)),
        D(load_first(in.D + first, count)),
        A(scratch.allocate<Vec<T>>(shape.N)) {
    for (int64_t n = 0; n < shape.N; ++n) {
      Vec<T> log = zeros<T>();
      for (int64_t i = 0; i < count; ++i) log.v[i] = in.A_log[(first + i) * shape.N + n];
      A[n] = zeros<T>() - exp(log);
    }
  }
  [[nodiscard]] Vec<T> load_row(const T* rows, int64_t t, int64_t E) const {
    return load_first(rows + t * E + first, count);
  }
  [[nodiscard]] Vec<T> step(const SelectiveShape& shape, const SelectiveInputs<T>& in,
                            int64_t t) const {
    return softplus(load_row(in.dt, t, shape.E) + bias);
  }
};

/// states [N, E] -> h [N], or zeros without any.
template <class T>
void load_state(const SelectiveShape& shape, const Channels<T>& channels, const T* states,
                Vec<T>* h) {
  for (int64_t n = 0; n < shape.N; ++n) {
    h[n] = states == nullptr ? zeros<T>()
                             : load_first(states + n * shape.E + channels.first, channels.count);
  }
}
template <class T>
void store_state(const SelectiveShape& shape, const Channels<T>& channels, const Vec<T>* h,
                 T* states) {
  for (int64_t n = 0; n < shape.N; ++n) {
    store_first(states + n * shape.E + channels.first, h[n], channels.count);
  }
}

/// A document's tokens for one register of channels.
template <class T>
void scan_document(const SelectiveShape& shape, const Channels<T>& channels,
                   const Document& document, const SelectiveScan<T>& args, Vec<T>* h) {
  const auto& [E, N] = shape;
  const SelectiveInputs<T>& in = args.in;
  int64_t slot = document.slot;
  for (int64_t t = document.begin; t < document.end; ++t) {
    const bool starts_segment = t > document.begin && (t - document.begin) % kSelectiveSegment == 0;
    if (starts_segment && args.states != nullptr) {
      store_state(shape, channels, h, args.states + slot++ * N * E);
    }
    const Vec<T> d = channels.step(shape, in, t);
    const Vec<T> u = channels.load_row(in.u, t, E);
    const Vec<T> input = d * u;
    const T* B = in.B + t * N;
    const T* C = in.C + t * N;
    Vec<T> y = channels.D * u;
    for (int64_t n = 0; n < N; ++n) {
      h[n] = fma(decay(d * channels.A[n]), h[n], input * broadcast(B[n]));
      y = fma(h[n], broadcast(C[n]), y);
    }
    store_first(args.y + t * E + channels.first, y, channels.count);
  }
}

/// What the tokens of a segment need for one register of channels, computed forwards.
template <class T>
struct Segment {
  Segment(ArenaScope& scratch, int64_t N)
      : h(scratch.allocate<Vec<T>>((kSelectiveSegment + 1) * N)),
        decays(scratch.allocate<Vec<T>>(kSelectiveSegment * N)),
        steps(scratch.allocate<Vec<T>>(kSelectiveSegment)) {}

  /// Tokens begin .. end - 1, whose first state h[0] is there.
  void run(const SelectiveShape& shape, const Channels<T>& channels, const SelectiveInputs<T>& in,
           int64_t begin, int64_t end) const {
    const auto& [E, N] = shape;
    for (int64_t t = begin; t < end; ++t) {
      const Vec<T> d = channels.step(shape, in, t);
      const Vec<T> input = d * channels.load_row(in.u, t, E);
      steps[t - begin] = d;
      const Vec<T>* before = h + (t - begin) * N;
      Vec<T>* after = h + (t - begin + 1) * N;
      Vec<T>* left = decays + (t - begin) * N;
      for (int64_t n = 0; n < N; ++n) {
        left[n] = decay(d * channels.A[n]);
        after[n] = fma(left[n], before[n], input * broadcast(in.B[t * N + n]));
      }
    }
  }

  Vec<T>* h;       // [segment + 1, N]
  Vec<T>* decays;  // [segment, N]
  Vec<T>* steps;   // [segment]: d
};

/// What one register of channels carries backwards.
template <class T>
struct Carried {
  Carried(ArenaScope& scratch, int64_t N_)
      : N(N_),
        lambda(scratch.allocate<Vec<T>>(N)),
        segment_A(scratch.allocate<Vec<T>>(N)),
        A(scratch.allocate<double>(N * Vec<T>::kWidth)),
        bias(scratch.allocate<double>(Vec<T>::kWidth)),
        D(scratch.allocate<double>(Vec<T>::kWidth)) {
    std::fill_n(A, N * Vec<T>::kWidth, 0.0);
    std::fill_n(bias, Vec<T>::kWidth, 0.0);
    std::fill_n(D, Vec<T>::kWidth, 0.0);
  }
  static void add(Vec<T> value, double* sums) {
    for (int64_t i = 0; i < Vec<T>::kWidth; ++i) sums[i] += static_cast<double>(value.v[i]);
  }
  int64_t N;
  Vec<T>* lambda;     // [N]
  Vec<T>* segment_A;  // [N]: dA of the segment at hand
  double* A;          // [N, lanes]: sums over the run's tokens
  double* bias;       // [lanes]
  double* D;          // [lanes]
};

/// A segment backwards. grad_B and grad_C [segment, N] gather this block's channels, lane by lane.
template <class T>
void walk_back(const SelectiveShape& shape, const Channels<T>& channels, const Segment<T>& segment,
               int64_t begin, int64_t end, const SelectiveScanBackward<T>& args,
               const Carried<T>& carried, Vec<T>* grad_B, Vec<T>* grad_C) {
  const auto& [E, N] = shape;
  const SelectiveInputs<T>& in = args.in;
  Vec<T> bias_sum = zeros<T>();
  Vec<T> D_sum = zeros<T>();
  std::fill_n(carried.segment_A, N, zeros<T>());
  for (int64_t t = end - 1; t >= begin; --t) {
    const int64_t i = t - begin;
    const Vec<T> d = segment.steps[i];
    const Vec<T> u = channels.load_row(in.u, t, E);
    const Vec<T> grad_y = channels.load_row(args.grad_y, t, E);
    const Vec<T> input = d * u;
    Vec<T> read = zeros<T>();     // sum_n lambda B
    Vec<T> through = zeros<T>();  // sum_n w A
    for (int64_t n = 0; n < N; ++n) {
      const Vec<T> lambda = fma(grad_y, broadcast(in.C[t * N + n]), carried.lambda[n]);
      grad_C[i * N + n] = fma(grad_y, segment.h[(i + 1) * N + n], grad_C[i * N + n]);
      grad_B[i * N + n] = fma(lambda, input, grad_B[i * N + n]);
      read = fma(lambda, broadcast(in.B[t * N + n]), read);
      const Vec<T> next = lambda * segment.decays[i * N + n];
      const Vec<T> w = next * segment.h[i * N + n];
      through = fma(w, channels.A[n], through);
      carried.segment_A[n] = fma(w, d, carried.segment_A[n]);
      carried.lambda[n] = next;
    }
    const Vec<T> raw = channels.load_row(in.dt, t, E) + channels.bias;
    const Vec<T> grad_dt = fma(u, read, through) * sigmoid(raw);
    bias_sum = bias_sum + grad_dt;
    D_sum = fma(grad_y, u, D_sum);
    const int64_t at = t * E + channels.first;
    if (args.grad_u) {
      put_gradient(args.grad_u.from(at), 0, channels.count, fma(d, read, channels.D * grad_y));
    }
    if (args.grad_dt) put_gradient(args.grad_dt.from(at), 0, channels.count, grad_dt);
  }
  for (int64_t n = 0; n < N; ++n) {
    Carried<T>::add(carried.segment_A[n], carried.A + n * Vec<T>::kWidth);
  }
  Carried<T>::add(bias_sum, carried.bias);
  Carried<T>::add(D_sum, carried.D);
}

/// Sums over a run's tokens, [E, N] and twice [E].
template <class T>
struct RunSums {
  T* A;
  T* bias;
  T* D;
};

/// A run of documents for one block of channels; `shares` [T, 2 N] is where this block's parts of dB
/// and dC go.
template <class T>
void block_backward(const SelectiveShape& shape, const Documents& documents, int64_t run,
                    int64_t block, const SelectiveScanBackward<T>& args, T* shares,
                    const RunSums<T>& sums) {
  constexpr int64_t kWidth = Vec<T>::kWidth;
  const auto& [E, N] = shape;
  ArenaScope scratch(thread_arena());
  const Segment<T> segment(scratch, N);
  auto* grad_B = scratch.allocate<Vec<T>>(kSelectiveSegment * N);
  auto* grad_C = scratch.allocate<Vec<T>>(kSelectiveSegment * N);
  const int64_t first = block * kBlock<T>;
  const int64_t vectors = ceil_div(std::min(kBlock<T>, E - first), kWidth);
  auto* channels = scratch.allocate<Channels<T>>(vectors);
  auto* carried = scratch.allocate<Carried<T>>(vectors);
  for (int64_t v = 0; v < vectors; ++v) {
    channels[v] = Channels<T>(scratch, shape, args.in, first + v * kWidth);
    carried[v] = Carried<T>(scratch, N);
  }
  for (int64_t d = documents.run_begin(run); d < documents.run_end[run]; ++d) {
    const Document& document = documents.list[d];
    for (int64_t v = 0; v < vectors; ++v) std::fill_n(carried[v].lambda, N, zeros<T>());
    const int64_t segments = ceil_div(document.end - document.begin, kSelectiveSegment);
    for (int64_t s = segments - 1; s >= 0; --s) {
      const int64_t begin = document.begin + s * kSelectiveSegment;
      const int64_t end = std::min(document.end, begin + kSelectiveSegment);
      const T* state = s == 0 ? nullptr : args.states + (document.slot + s - 1) * N * E;
      std::fill_n(grad_B, (end - begin) * N, zeros<T>());
      std::fill_n(grad_C, (end - begin) * N, zeros<T>());
      for (int64_t v = 0; v < vectors; ++v) {
        load_state(shape, channels[v], state, segment.h);
        segment.run(shape, channels[v], args.in, begin, end);
        walk_back(shape, channels[v], segment, begin, end, args, carried[v], grad_B, grad_C);
      }
      for (int64_t t = begin; t < end; ++t) {
        for (int64_t n = 0; n < N; ++n) {
          shares[t * 2 * N + n] = sum_lanes(grad_B[(t - begin) * N + n]);
          shares[t * 2 * N + N + n] = sum_lanes(grad_C[(t - begin) * N + n]);
        }
      }
    }
  }
  for (int64_t v = 0; v < vectors; ++v) {
    for (int64_t i = 0; i < channels[v].count; ++i) {
      const int64_t c = channels[v].first + i;
      sums.bias[c] = static_cast<T>(carried[v].bias[i]);
      sums.D[c] = static_cast<T>(carried[v].D[i]);
      for (int64_t n = 0; n < N; ++n) {
        const auto A = static_cast<double>(channels[v].A[n].v[i]);
        sums.A[c * N + n] = static_cast<T>(A * carried[v].A[n * kWidth + i]);
      }
    }
  }
}

}  // namespace

int64_t selective_states(std::span<const int64_t> documents) {
  int64_t states = 0;
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    const int64_t length = documents[d + 1] - documents[d];
    states += std::max<int64_t>(0, ceil_div(length, kSelectiveSegment) - 1);
  }
  return states;
}

template <class T>
void selective_scan(const SelectiveShape& shape, std::span<const int64_t> documents,
                    const SelectiveScan<T>& args) {
  ArenaScope scratch(thread_arena());
  const Documents pieces(scratch, documents);
  const int64_t blocks = blocks_of<T>(shape);
  parallel_for(pieces.count * blocks, [&](int64_t task) {
    const int64_t d = task / blocks;
    const int64_t first = task % blocks * kBlock<T>;
    const int64_t end = std::min(shape.E, first + kBlock<T>);
    for (int64_t c = first; c < end; c += Vec<T>::kWidth) {
      ArenaScope own(thread_arena());
      const Channels<T> channels(own, shape, args.in, c);
      auto* h = own.allocate<Vec<T>>(shape.N);
      load_state(shape, channels, d == 0 ? args.initial : nullptr, h);
      scan_document(shape, channels, pieces.list[d], args, h);
      if (args.last != nullptr && d + 1 == pieces.count) {
        store_state(shape, channels, h, args.last);
      }
    }
  });
}

template <class T>
int64_t selective_workspace(const SelectiveShape& shape, int64_t tokens) {
  return blocks_of<T>(shape) * tokens * 2 * shape.N;
}

template <class T>
void selective_scan_backward(const SelectiveShape& shape, std::span<const int64_t> documents,
                             const SelectiveScanBackward<T>& args) {
  const auto& [E, N] = shape;
  ArenaScope scratch(thread_arena());
  const Documents pieces(scratch, documents);
  const int64_t blocks = blocks_of<T>(shape);
  const int64_t share = tokens_of(documents) * 2 * N;
  // Of each run: the sums for A_log [E, N], dt_bias and D [E].
  const int64_t sums_size = E * (N + 2);
  T* sums = scratch.allocate<T>(pieces.runs * sums_size);
  parallel_for(pieces.runs * blocks, [&, E = E, N = N](int64_t task) {
    const int64_t run = task / blocks;
    T* own = sums + run * sums_size;
    block_backward(shape, pieces, run, task % blocks, args, args.workspace + task % blocks * share,
                   {own, own + E * N, own + E * (N + 1)});
  });
  const auto put_runs = [&](const Gradient<T>& gradient, int64_t offset, int64_t size) {
    if (!gradient) return;
    put_gradient(gradient, size, [&](int64_t i) {
      double total = 0.0;
      for (int64_t run = 0; run < pieces.runs; ++run) {
        total += static_cast<double>(sums[run * sums_size + offset + i]);
      }
      return static_cast<T>(total);
    });
  };
  put_runs(args.grad_A_log, 0, E * N);
  put_runs(args.grad_dt_bias, E * N, E);
  put_runs(args.grad_D, E * (N + 1), E);
  parallel_for_ranges(tokens_of(documents), rows_per_block(2 * N * blocks),
                      [&, N = N](int64_t begin, int64_t end) {
                        for (int64_t t = begin; t < end; ++t) {
                          const auto put = [&](const Gradient<T>& gradient, int64_t offset) {
                            if (!gradient) return;
                            put_gradient(gradient.from(t * N), N, [&](int64_t n) {
                              T total = 0;
                              for (int64_t b = 0; b < blocks; ++b) {
                                total += args.workspace[b * share + t * 2 * N + offset + n];
                              }
                              return total;
                            });
                          };
                          put(args.grad_B, 0);
                          put(args.grad_C, N);
                        }
                      });
}

#define SLUICE_INSTANTIATE(T)                                                               \
  template void selective_scan<T>(const SelectiveShape&, std::span<const int64_t>,          \
                                  const SelectiveScan<T>&);                                 \
  template int64_t selective_workspace<T>(const SelectiveShape&, int64_t);                  \
  template void selective_scan_backward<T>(const SelectiveShape&, std::span<const int64_t>, \
                                           const SelectiveScanBackward<T>&);
SLUICE_INSTANTIATE(float)
SLUICE_INSTANTIATE(double)
#undef SLUICE_INSTANTIATE

}  // namespace sluice::kernels
