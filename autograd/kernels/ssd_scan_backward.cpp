#include "autograd/kernels/rows.h"
#include "autograd/kernels/ssd_chunks.h"
#include "autograd/kernels/ssd_scan.h"

namespace sluice::kernels {
namespace {

/// What the heads of a group share in a chunk, and what they add up. All lanes hold tokens of the
/// chunk, panel by panel; all rows are keys, the same tokens.
template <class T>
struct Group {
  Group(ArenaScope& scratch, const SsdShape& shape, const Chunk& chunk_, int64_t group,
        const SsdInputs<T>& in)
      : chunk(chunk_),
        panels(panels_of<T>(chunk)),
        C_lanes(scratch.allocate<T>(panels * shape.N * kLanes<T>)),
        C_rows(scratch.allocate<T>(panels * packed_size<T>(shape.N, kLanes<T>))),
        B_keys(scratch.allocate<T>(packed_left(chunk.size, shape.N))),
        B_columns(scratch.allocate<T>(packed_left(shape.N, chunk.size))),
        products(scratch.allocate<T>(panels * chunk.size * kLanes<T>)),
        grad_products(scratch.allocate<T>(panels * chunk.size * kLanes<T>)),
        grad_C(scratch.allocate<T>(panels * shape.N * kLanes<T>)),
        grad_B(scratch.allocate<T>(chunk.size * shape.N)) {
    const int64_t N = shape.N;
    const T* B = in.B + chunk.begin * in.stride + group * N;
    const T* C = in.C + chunk.begin * in.stride + group * N;
    pack_transposing<T, kTileRows>(chunk.size, N, {B, in.stride}, B_keys);
    pack_copying<T, kTileRows>(N, chunk.size, {B, in.stride}, B_columns);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = panel * kLanes<T>;
      const int64_t count = panel_size<T>(chunk, panel);
      const T* rows = C + first * in.stride;
      load_lanes<T>(
          count, N, [&](int64_t lane) { return rows + lane * in.stride; }, T{1},
          C_lanes + first * N);
      pack_copying<T, kTileColumns<T>>(N, count, {rows, in.stride},
                                       C_rows + panel * packed_size<T>(N, kLanes<T>));
      multiply_panels(first + count, N, N, B_keys, C_lanes + first * N,
                      products + first * chunk.size, T{0});
    }
    std::fill_n(grad_products, panels * chunk.size * kLanes<T>, T{0});
    std::fill_n(grad_C, panels * N * kLanes<T>, T{0});
    std::fill_n(grad_B, chunk.size * N, T{0});
  }

  Chunk chunk;
  int64_t panels;
  T* C_lanes;        // [panels, N, lanes]
  T* C_rows;         // [panels]: packed right operands [lanes, N]
  T* B_keys;         // packed left operand [keys, N]
  T* B_columns;      // packed left operand [N, keys]
  T* products;       // [panels, keys, lanes]: C_i . B_j
  T* grad_products;  // [panels, keys, lanes]
  T* grad_C;         // [panels, N, lanes]
  T* grad_B;         // [keys, N]
};

/// rows [keys, columns] += weights [keys, lanes] times a packed right operand [lanes, columns].
template <class T>
void add_weighted_rows(int64_t keys, int64_t lanes, int64_t columns, const T* weights,
                       const T* right, T* rows) {
  for (int64_t c = 0; c < columns; c += kTileColumns<T>) {
    const int64_t width = std::min(kTileColumns<T>, columns - c);
    for (int64_t j = 0; j < keys; j += kTileRows) {
      multiply_tile<T, ResultRows<T>>(std::min(kTileRows, keys - j), lanes, weights + j * kLanes<T>,
                                      right + c * lanes,
                                      {rows + j * columns + c, columns, width, T{1}, T{1}});
    }
  }
}

/// rows [keys, columns] (+)= packed left [keys, depth] times packed right [depth, columns].
template <class T>
void multiply_packed(int64_t keys, int64_t depth, int64_t columns, const T* left, const T* right,
                     T* rows, T beta) {
  for (int64_t c = 0; c < columns; c += kTileColumns<T>) {
    const int64_t width = std::min(kTileColumns<T>, columns - c);
    for (int64_t j = 0; j < keys; j += kTileRows) {
      multiply_tile<T>(std::min(kTileRows, keys - j), depth, left + j * depth, right + c * depth,
                       {rows + j * columns + c, columns, width, T{1}, beta});
    }
  }
}

/// Sums over a chunk's tokens for one head.
struct HeadSums {
  double A_log = 0.0;
  double D = 0.0;
  double dt_bias = 0.0;
};

/// One head in one chunk.
template <class T>
class Head {
 public:
  Head(ArenaScope& scratch, const SsdShape& shape, int64_t head, const HeadDecays<T>& decays,
       const SsdScanBackward<T>& args, Group<T>& group)
      : shape_(shape),
        head_(head),
        size_(group.chunk.size),
        decays_(decays),
        args_(args),
        group_(group),
        x_(args.in.x + group.chunk.begin * args.in.stride + head * shape.P),
        keys_x_(scratch.allocate<T>(packed_left(size_, shape.P))),
        grad_x_(scratch.allocate<T>(size_ * shape.P)),
        weights_(scratch.allocate<T>(group.panels * size_ * kLanes<T>)),
        tile_(scratch.allocate<T>(size_ * kLanes<T>)),
        dy_lanes_(scratch.allocate<T>(shape.P * kLanes<T>)),
        dy_rows_(scratch.allocate<T>(packed_size<T>(shape.P, kLanes<T>))),
        from_start_(scratch.allocate<T>(group.panels * kLanes<T>)),
        to_end_(scratch.allocate<T>(size_)),
        by_query_(scratch.allocate<double>(group.panels * kLanes<T>)),
        by_key_(scratch.allocate<double>(size_)),
        by_end_(scratch.allocate<double>(size_)) {
    pack_transposing<T, kTileRows>(size_, shape.P, {x_, args.in.stride}, keys_x_);
    std::fill_n(grad_x_, size_ * shape.P, T{0});
    std::fill_n(by_query_, group.panels * kLanes<T>, 0.0);
    std::fill_n(by_key_, size_, 0.0);
    std::fill_n(by_end_, size_, 0.0);
    std::fill_n(from_start_, group.panels * kLanes<T>, T{0});
    decays.from_start(from_start_);
    decays.to_end(to_end_);
  }

  /// `before` [P, N] is the state that enters, `grad_after` the gradient of the one that leaves;
  /// either may be null.
  HeadSums run(const T* before, const T* grad_after) {
    ArenaScope scratch(thread_arena());
    T* packed_state = nullptr;
    if (before != nullptr) {
      packed_state = scratch.allocate<T>(packed_left(shape_.N, shape_.P));
      pack_copying<T, kTileRows>(shape_.N, shape_.P, {before, shape_.N}, packed_state);
    }
    for (int64_t panel = 0; panel < group_.panels; ++panel) meet(panel, packed_state);
    double carried = 0.0;
    if (grad_after != nullptr) {
      from_end(grad_after);
      if (before != nullptr) {
        carried =
            static_cast<double>(decays_.whole() * row_dot(shape_.P * shape_.N, grad_after, before));
      }
    }
    put_grad_x();
    find_step_gradients(carried);
    return sums_;
  }

 private:
  /// A panel's dY against the keys up to its last token, and against the state.
  void meet(int64_t panel, const T* packed_state) {
    const int64_t P = shape_.P;
    const int64_t first = panel * kLanes<T>;
    const int64_t count = panel_size<T>(group_.chunk, panel);
    const int64_t keys = first + count;
    const int64_t stride = shape_.H * P;
    const T* dy = args_.grad_y + (group_.chunk.begin + first) * stride + head_ * P;
    load_lanes<T>(
        count, P, [&](int64_t lane) { return dy + lane * stride; }, T{1}, dy_lanes_);
    pack_copying<T, kTileColumns<T>>(P, count, {dy, stride}, dy_rows_);
    multiply_panels(keys, P, P, keys_x_, dy_lanes_, weights_ + first * size_, T{0});
    weigh(PanelDecays<T>(decays_, first, count), keys);
    add_weighted_rows(keys, count, P, tile_, dy_rows_, grad_x_);
    if (packed_state != nullptr) read_state(panel, packed_state);
  }

  /// dM^T -> W^T / d, with M^T in the tile and what the products' gradient gets added to it.
  void weigh(const PanelDecays<T>& panel, int64_t keys) {
    constexpr int64_t kWidth = Vec<T>::kWidth;
    const int64_t offset = panel.first * size_;
    const T D = args_.in.D[head_];
    for (int64_t j = 0; j < keys; ++j) {
      const int64_t row = offset + j * kLanes<T>;
      const bool has_diagonal = j >= panel.first;
      if (has_diagonal) sums_.D += static_cast<double>(weights_[row + j - panel.first]);
      const Vec<T> d = broadcast(decays_.d[j]);
      Vec<T> sum = zeros<T>();
      for (int64_t lane = 0; lane < kLanes<T>; lane += kWidth) {
        const int64_t at = row + lane;
        const Vec<T> decay = panel.between(decays_, j, lane);
        const Vec<T> product = load(group_.products + at);
        const Vec<T> grad = load(weights_ + at) * decay;
        const Vec<T> weight = grad * product;
        store(weights_ + at, weight);
        store(tile_ + j * kLanes<T> + lane, product * decay * d);
        store(group_.grad_products + at, fma(grad, d, load(group_.grad_products + at)));
        sum = sum + weight;
      }
      by_key_[j] += static_cast<double>(sum_lanes(sum));
      if (has_diagonal) tile_[j * kLanes<T> + j - panel.first] += D;
    }
  }

  /// dC += diag(e^g) dY H_in, and u_i = e^(g_i) <dY_i, H_in C_i>.
  void read_state(int64_t panel, const T* packed_state) {
    constexpr int64_t kWidth = Vec<T>::kWidth;
    ArenaScope scratch(thread_arena());
    const int64_t N = shape_.N;
    const int64_t first = panel * kLanes<T>;
    T* read = scratch.allocate<T>(N * kLanes<T>);
    multiply_panels(N, shape_.P, shape_.P, packed_state, dy_lanes_, read, T{0});
    for (int64_t lane = 0; lane < kLanes<T>; lane += kWidth) {
      const Vec<T> weight = load(from_start_ + first + lane);
      Vec<T> sum = zeros<T>();
      for (int64_t n = 0; n < N; ++n) {
        const int64_t at = first * N + n * kLanes<T> + lane;
        const Vec<T> grad = weight * load(read + n * kLanes<T> + lane);
        store(group_.grad_C + at, load(group_.grad_C + at) + grad);
        sum = fma(grad, load(group_.C_lanes + at), sum);
      }
      T lanes[static_cast<size_t>(kWidth)];
      store(lanes, sum);
      for (int64_t i = 0; i < kWidth; ++i) by_query_[first + lane + i] = lanes[i];
    }
  }

  /// What the state that leaves adds: to dX, to dB, and v_j = e^(g_q - g_j) <x_j, dH_out B_j>.
  void from_end(const T* grad_after) {
    const int64_t P = shape_.P;
    const int64_t N = shape_.N;
    ArenaScope scratch(thread_arena());
    T* by_state = scratch.allocate<T>(packed_size<T>(P, N));
    pack_transposing<T, kTileColumns<T>>(P, N, {grad_after, N}, by_state);
    T* read = scratch.allocate<T>(size_ * P);
    multiply_packed(size_, N, P, group_.B_keys, by_state, read, T{0});
    T* weighted_x = scratch.allocate<T>(size_ * P);
    for (int64_t j = 0; j < size_; ++j) {
      const T* x = x_ + j * args_.in.stride;
      const T weight = to_end_[j] * decays_.d[j];
      by_end_[j] = static_cast<double>(to_end_[j] * row_dot(P, x, read + j * P));
      for (int64_t p = 0; p < P; ++p) {
        grad_x_[j * P + p] += weight * read[j * P + p];
        weighted_x[j * P + p] = weight * x[p];
      }
    }
    T* left = scratch.allocate<T>(packed_left(size_, P));
    pack_transposing<T, kTileRows>(size_, P, {weighted_x, P}, left);
    T* by_head = scratch.allocate<T>(packed_size<T>(N, P));
    pack_copying<T, kTileColumns<T>>(N, P, {grad_after, N}, by_head);
    multiply_packed(size_, P, N, left, by_head, group_.grad_B, T{1});
  }

  void put_grad_x() const {
    if (!args_.grad_x) return;
    for (int64_t j = 0; j < size_; ++j) {
      const int64_t at = (group_.chunk.begin + j) * args_.in.stride + head_ * shape_.P;
      put_gradient(args_.grad_x.from(at), shape_.P,
                   [&](int64_t p) { return grad_x_[j * shape_.P + p]; });
    }
  }

  /// `across` [lanes]: sums over j < t of d_j times W_ij / d_j, for the lanes i of all panels. Adds
  /// row t - 1 and returns the sum over i >= t.
  double rectangle(int64_t t, T* across) const {
    constexpr int64_t kWidth = Vec<T>::kWidth;
    if (t == 0) return 0.0;
    const Vec<T> d = broadcast(decays_.d[t - 1]);
    Vec<T> sum = zeros<T>();
    // Whole registers from the one that token t lies in; lanes before t are taken out.
    const int64_t begin = t / kWidth * kWidth;
    for (int64_t i = begin; i < group_.panels * kLanes<T>; i += kWidth) {
      const int64_t panel = i / kLanes<T>;
      const T* weights = weights_ + panel * kLanes<T> * size_ + (t - 1) * kLanes<T> + i % kLanes<T>;
      const Vec<T> total = fma(d, load(weights), load(across + i));
      store(across + i, total);
      if (i < t) {
        const Vec<T> index = load(PanelDecays<T>::lane_index());
        sum = sum + select_less(index, broadcast(static_cast<T>(t - i)), zeros<T>(), total);
      } else {
        sum = sum + total;
      }
    }
    return static_cast<double>(sum_lanes(sum));
  }

  /// da, and from it the gradients of d, dt, A and the bias.
  void find_step_gradients(double carried) {
    ArenaScope scratch(thread_arena());
    T* across = scratch.allocate<T>(group_.panels * kLanes<T>);
    std::fill_n(across, group_.panels * kLanes<T>, T{0});
    // Suffix sums of what each token reads from the state that enters.
    for (int64_t i = size_ - 2; i >= 0; --i) by_query_[i] += by_query_[i + 1];
    const double A = -std::exp(static_cast<double>(args_.in.A_log[head_]));
    double written = 0.0;
    for (int64_t t = 0; t < size_; ++t) {
      const T d = decays_.d[t];
      const double grad_a = rectangle(t, across) + by_query_[t] + carried + written;
      written += static_cast<double>(d) * by_end_[t];
      sums_.A_log += static_cast<double>(d) * A * grad_a;
      const double grad_d = A * grad_a + by_key_[t] + by_end_[t];
      // softplus' = 1 - e^-softplus; none where d is clamped.
      const bool is_free = d > static_cast<T>(shape_.dt_min) && d < static_cast<T>(shape_.dt_max);
      const double grad_dt = is_free ? -std::expm1(-static_cast<double>(d)) * grad_d : 0.0;
      sums_.dt_bias += grad_dt;
      if (args_.grad_dt) {
        put_gradient(args_.grad_dt.from((group_.chunk.begin + t) * shape_.H + head_), 1,
                     [&](int64_t) { return static_cast<T>(grad_dt); });
      }
    }
  }

  const SsdShape& shape_;
  int64_t head_;
  int64_t size_;
  HeadDecays<T> decays_;
  const SsdScanBackward<T>& args_;
  Group<T>& group_;
  const T* x_;
  T* keys_x_;         // packed left operand [keys, P]
  T* grad_x_;         // [keys, P]
  T* weights_;        // [panels, keys, lanes]
  T* tile_;           // [keys, lanes]
  T* dy_lanes_;       // [P, lanes]
  T* dy_rows_;        // packed right operand [lanes, P]
  T* from_start_;     // [panels * lanes]: e^(g_i)
  T* to_end_;         // [keys]: e^(g_q - g_j)
  double* by_query_;  // u_i
  double* by_key_;    // sum over i of W_ij / d_j
  double* by_end_;    // v_j
  HeadSums sums_;
};

/// The gradients of B and C, once all heads of the group have added to them.
template <class T>
void put_group_gradients(const SsdShape& shape, int64_t group, const SsdScanBackward<T>& args,
                         Group<T>& sums) {
  if (!args.grad_B) return;
  const int64_t N = shape.N;
  const Chunk& chunk = sums.chunk;
  const int64_t stride = args.in.stride;
  const int64_t start = chunk.begin * stride + group * N;
  T ones[static_cast<size_t>(kLanes<T>)];
  std::fill_n(ones, kLanes<T>, T{1});
  for (int64_t panel = 0; panel < sums.panels; ++panel) {
    const int64_t first = panel * kLanes<T>;
    const int64_t count = panel_size<T>(chunk, panel);
    T* grad_C = sums.grad_C + first * N;
    const T* grad_products = sums.grad_products + first * chunk.size;
    multiply_panels(N, first + count, chunk.size, sums.B_columns, grad_products, grad_C, T{1});
    add_weighted_rows(first + count, count, N, grad_products,
                      sums.C_rows + panel * packed_size<T>(N, kLanes<T>), sums.grad_B);
    T* rows = args.grad_C.data + start + first * stride;
    store_lanes<T>(
        count, N, grad_C, ones, [&](int64_t lane) { return rows + lane * stride; },
        args.grad_C.accumulate);
  }
  for (int64_t j = 0; j < chunk.size; ++j) {
    put_gradient(args.grad_B.from(start + j * stride), N,
                 [&](int64_t n) { return sums.grad_B[j * N + n]; });
  }
}

/// grad_states[c] = e^(g_q) grad_states[c + 1] + dY^T diag(e^g) C, from the last chunk on.
template <class T>
void find_grad_states(const SsdShape& shape, const Chunks& chunks, const Decays<T>& decays,
                      const SsdScanBackward<T>& args) {
  const int64_t size = shape.P * shape.N;
  const auto at = [&](int64_t slot) { return args.grad_states + slot * shape.H * size; };
  run_chain(
      shape, chunks, true,
      [&](int64_t c, HeadRange heads) {
        const Chunk& chunk = chunks[c];
        if (chunk.slot < 0) return;
        ArenaScope scratch(thread_arena());
        T* weights = scratch.allocate<T>(heads.size() * chunk.size);
        for (int64_t h = 0; h < heads.size(); ++h) {
          HeadDecays<T>(decays, chunk, heads.first + h).from_start(weights + h * chunk.size);
        }
        sum_outer<T>(shape, chunk, heads, {args.grad_y, shape.H * shape.P},
                     {args.in.C, args.in.stride}, weights, at(chunk.slot) + heads.first * size);
      },
      [&](int64_t c, HeadRange heads, int64_t begin, int64_t end) {
        const Chunk& chunk = chunks[c];
        if (chunk.slot < 0 || chunk.next_slot < 0) return;
        for (int64_t h = heads.first; h < heads.end; ++h) {
          const T decay = HeadDecays<T>(decays, chunk, h).whole();
          add_decayed(end - begin, decay, at(chunk.next_slot) + h * size + begin,
                      at(chunk.slot) + h * size + begin);
        }
      });
}

}  // namespace

template <class T>
void ssd_scan_backward(const SsdShape& shape, std::span<const int64_t> documents,
                       const SsdScanBackward<T>& args) {
  const int64_t H = shape.H;
  const int64_t size = shape.P * shape.N;
  ArenaScope scratch(thread_arena());
  const Chunks chunks(scratch, shape, documents);
  const Decays<T> decays(scratch, shape, documents.empty() ? 0 : documents.back());
  parallel_for(chunks.count(),
               [&](int64_t c) { decays.find(shape, chunks[c], args.in.A_log, args.delta); });
  find_grad_states(shape, chunks, decays, args);
  auto* sums = scratch.allocate<HeadSums>(chunks.count() * H);
  const int64_t heads = H / shape.G;
  parallel_for(chunks.count() * shape.G, [&](int64_t task) {
    const int64_t c = task / shape.G;
    const int64_t group = task % shape.G;
    const Chunk& chunk = chunks[c];
    ArenaScope own(thread_arena());
    Group<T> shared(own, shape, chunk, group, args.in);
    for (int64_t h = group * heads; h < (group + 1) * heads; ++h) {
      ArenaScope per_head(thread_arena());
      Head<T> head(per_head, shape, h, HeadDecays<T>(decays, chunk, h), args, shared);
      const T* before = chunk.slot < 0 ? nullptr : args.states + (chunk.slot * H + h) * size;
      const T* grad_after =
          chunk.next_slot < 0 ? nullptr : args.grad_states + (chunk.next_slot * H + h) * size;
      sums[c * H + h] = head.run(before, grad_after);
    }
    put_group_gradients(shape, group, args, shared);
  });
  const auto put = [&](const Gradient<T>& gradient, double HeadSums::*member) {
    if (!gradient) return;
    put_gradient(gradient, H, [&](int64_t h) {
      double total = 0.0;
      for (int64_t c = 0; c < chunks.count(); ++c) total += sums[c * H + h].*member;
      return static_cast<T>(total);
    });
  };
  put(args.grad_A_log, &HeadSums::A_log);
  put(args.grad_D, &HeadSums::D);
  put(args.grad_dt_bias, &HeadSums::dt_bias);
}

template void ssd_scan_backward<float>(const SsdShape&, std::span<const int64_t>,
                                       const SsdScanBackward<float>&);
template void ssd_scan_backward<double>(const SsdShape&, std::span<const int64_t>,
                                        const SsdScanBackward<double>&);

}  // namespace sluice::kernels
