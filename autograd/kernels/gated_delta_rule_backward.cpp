#include "autograd/kernels/gated_delta_rule.h"
#include "autograd/kernels/memory_chunk.h"

namespace sluice::kernels {
namespace {

/// One head of one segment, from its last chunk to its first.
template <class T>
class BackwardScan {
 public:
  BackwardScan(ArenaScope& scratch, const MemoryShape& shape, const MemoryBackward<T>& args)
      : shape_(shape),
        args_(args),
        is_delta_(shape.rule == MemoryRule::delta),
        chunk_(scratch, shape),
        grad_memory_(scratch.allocate<T>(shape.K * shape.V)),
        scores_(scratch.allocate<T>(shape.chunk * shape.chunk)),
        grad_scores_(scratch.allocate<T>(shape.chunk * shape.chunk)),
        overlaps_(scratch.allocate<T>(is_delta_ ? shape.chunk * shape.chunk : 0)),
        grad_overlaps_(scratch.allocate<T>(is_delta_ ? shape.chunk * shape.chunk : 0)),
        written_(scratch.allocate<T>(shape.chunk * shape.V)),
        grad_written_(scratch.allocate<T>(shape.chunk * shape.V)),
        grad_read_(scratch.allocate<T>(shape.chunk * shape.V)),
        grad_held_(scratch.allocate<T>(is_delta_ ? shape.chunk * shape.V : 0)),
        keys_(scratch.allocate<T>(shape.chunk * shape.K)),
        grad_q_(scratch.allocate<T>(shape.chunk * shape.K)),
        grad_k_(scratch.allocate<T>(shape.chunk * shape.K)),
        product_(scratch.allocate<T>(shape.chunk * shape.K)),
        pairs_(scratch.allocate<double>(shape.chunk)),
        reads_(scratch.allocate<double>(shape.chunk)),
        writes_(scratch.allocate<double>(shape.chunk)) {}

  void run(const MemorySegment& segment, int64_t h) {
    const int64_t size = shape_.K * shape_.V;
    const int64_t chunks = saved_memories(segment.end - segment.begin, shape_.chunk) + 1;
    is_read_later_ = false;
    for (int64_t c = chunks - 1; c >= 0; --c) {
      const int64_t t = segment.begin + c * shape_.chunk;
      const ChunkRows rows{t, std::min(shape_.chunk, segment.end - t), shape_.H, h};
      if (rows.n <= 0) return;
      const T* memory =
          c == 0 ? nullptr : args_.states + ((segment.first_state + c - 1) * shape_.H + h) * size;
      step(rows, memory);
    }
  }

 private:
  /// `memory` is S, null for an empty one.
  void step(const ChunkRows& rows, const T* memory) {
    chunk_.load(rows, args_.log_decay, args_.beta);
    std::fill_n(pairs_, rows.n, 0.0);
    std::fill_n(reads_, rows.n, 0.0);
    std::fill_n(writes_, rows.n, 0.0);
    load_written(rows);
    differentiate_scores(rows);
    differentiate_written(rows);
    if (is_delta_) differentiate_overlaps(rows);
    put_values(rows);
    multiply_by_tokens(rows);
    if (is_read_later_) multiply_by_later(rows);
    if (memory != nullptr) multiply_by_memory(rows, memory);
    for (int64_t i = 0; i < rows.n; ++i) {
      put_row(args_.grad_q, rows, i, shape_.K, grad_q_);
      put_row(args_.grad_k, rows, i, shape_.K, grad_k_);
    }
    if (args_.grad_log_decay) put_decays(rows, memory);
    if (memory != nullptr) pass_on(rows);
  }

  static void put_row(const Gradient<T>& gradient, const ChunkRows& rows, int64_t i, int64_t width,
                      const T* from) {
    if (!gradient) return;
    const Gradient<T> to = gradient.from(rows.offset(i, width));
    for_each_vector<T>(width, [&](int64_t p, int64_t count) {
      put_gradient(to, p, count, load_first(from + i * width + p, count));
    });
  }

  [[nodiscard]] T scale() const { return static_cast<T>(shape_.scale); }

  /// U = diag(beta) E
  void load_written(const ChunkRows& rows) {
    const int64_t V = shape_.V;
    for (int64_t i = 0; i < rows.n; ++i) {
      put_multiple(V, chunk_.beta[i], args_.written + rows.offset(i, V), written_ + i * V);
    }
  }

  /// P, and from dP = tril(dO U^T): its part of W, and dB in its place.
  void differentiate_scores(const ChunkRows& rows) {
    const auto [rule, H, K, V, scale, C] = shape_;
    chunk_.multiply_rows(K, rows.operand(args_.q, K), rows.operand(args_.k, K), this->scale(),
                         scores_);
    chunk_.mask(scores_, true);
    chunk_.multiply_rows(V, rows.operand(args_.grad_o, V), {written_, V}, T{1}, grad_scores_);
    for (int64_t i = 0; i < rows.n; ++i) {
      add_pairs(i, grad_scores_ + i * C, scores_ + i * C);
    }
    chunk_.mask(grad_scores_, true);
  }

  /// Row i of W: sums its prefixes into pairs_[t], t = 1 .. i.
  void add_pairs(int64_t i, const T* a, const T* b) {
    if (!args_.grad_log_decay) return;
    double sum = 0.0;
    for (int64_t t = 1; t <= i; ++t) {
      sum += static_cast<double>(a[t - 1]) * static_cast<double>(b[t - 1]);
      pairs_[t] += sum;
    }
  }

  /// dU
  void differentiate_written(const ChunkRows& rows) {
    const auto [rule, H, K, V, scale, C] = shape_;
    gemm_serial<T>({rows.n, V, rows.n}, {scores_, C, true}, rows.operand(args_.grad_o, V),
                   {grad_written_, V});
    if (!is_read_later_) return;
    for (int64_t i = 0; i < rows.n; ++i) {
      put_multiple(K, chunk_.to_end[i], args_.k + rows.offset(i, K), keys_ + i * K);
    }
    gemm_serial<T>({rows.n, V, K}, {keys_, K}, {grad_memory_, V}, {grad_written_, V, T{1}, T{1}});
  }

  /// dU becomes R; then dA + dA^T, and the part of dL . diag(beta) N of W.
  void differentiate_overlaps(const ChunkRows& rows) {
    const auto [rule, H, K, V, scale, C] = shape_;
    const int64_t n = rows.n;
    const auto k = rows.operand(args_.k, K);
    chunk_.multiply_rows(K, k, k, T{1}, overlaps_);
    chunk_.mask(overlaps_, false);
    for (int64_t i = 1; i < n; ++i) {
      put_multiple(i, chunk_.beta[i], overlaps_ + i * C, overlaps_ + i * C);
    }
    chunk_.solve_lower_transposed(overlaps_, V, grad_written_);
    chunk_.multiply_rows(V, {grad_written_, V}, {written_, V}, T{-1}, grad_overlaps_);
    for (int64_t i = 0; i < n; ++i) add_pairs(i, grad_overlaps_ + i * C, overlaps_ + i * C);
    chunk_.mask(grad_overlaps_, false);
    for (int64_t i = 0; i < n; ++i) {
      put_multiple(i, chunk_.beta[i], grad_overlaps_ + i * C, grad_overlaps_ + i * C);
      for (int64_t j = 0; j < i; ++j) grad_overlaps_[j * C + i] = grad_overlaps_[i * C + j];
    }
  }

  /// dbeta and dV; for the delta rule Y.
  void put_values(const ChunkRows& rows) {
    const int64_t V = shape_.V;
    for (int64_t i = 0; i < rows.n; ++i) {
      T* row = grad_written_ + i * V;
      if (args_.grad_beta) {
        const T dot = row_dot(V, row, args_.written + rows.offset(i, V));
        put_gradient(args_.grad_beta.from(rows.offset(i, 1)), 1, [=](int64_t) { return dot; });
      }
      put_multiple(V, chunk_.beta[i], row, row);
      put_row(args_.grad_v, rows, i, V, grad_written_);
      if (is_delta_) put_multiple(V, -chunk_.from_start[i], row, grad_held_ + i * V);
    }
  }

  /// dQ = dB K;  dK = dB^T Q + (dA + dA^T) K
  void multiply_by_tokens(const ChunkRows& rows) {
    const auto [rule, H, K, V, scale, C] = shape_;
    const int64_t n = rows.n;
    const auto q = rows.operand(args_.q, K);
    const auto k = rows.operand(args_.k, K);
    const T factor = this->scale();
    gemm_serial<T>({n, K, n}, {grad_scores_, C}, k, {grad_q_, K, factor, T{0}});
    gemm_serial<T>({n, K, n}, {grad_scores_, C, true}, q, {grad_k_, K, factor, T{0}});
    if (is_delta_) {
      gemm_serial<T>({n, K, n}, {grad_overlaps_, C}, k, {grad_k_, K, T{1}, T{1}});
    }
  }

  /// dK += diag(e^(G_n - G)) U Z^T, with z
  void multiply_by_later(const ChunkRows& rows) {
    const auto [rule, H, K, V, scale, C] = shape_;
    gemm_serial<T>({rows.n, K, V}, {written_, V}, {grad_memory_, V, true}, {product_, K});
    for (int64_t i = 0; i < rows.n; ++i) {
      writes_[i] = static_cast<double>(chunk_.to_end[i] *
                                       row_dot(K, args_.k + rows.offset(i, K), product_ + i * K));
      add_multiple(K, chunk_.to_end[i], product_ + i * K, grad_k_ + i * K);
    }
  }

  /// dQ += X S^T;  dK += Y S^T, with x
  void multiply_by_memory(const ChunkRows& rows, const T* memory) {
    const auto [rule, H, K, V, scale, C] = shape_;
    const T factor = this->scale();
    for (int64_t i = 0; i < rows.n; ++i) {
      put_multiple(V, factor * chunk_.from_start[i], args_.grad_o + rows.offset(i, V),
                   grad_read_ + i * V);
    }
    add_read(rows, memory, grad_read_, args_.q, grad_q_);
    if (is_delta_) add_read(rows, memory, grad_held_, args_.k, grad_k_);
  }

  /// grad += grad_read S^T, and reads_ gains its products with `by`.
  void add_read(const ChunkRows& rows, const T* memory, const T* grad_read, const T* by, T* grad) {
    const int64_t K = shape_.K;
    const int64_t V = shape_.V;
    gemm_serial<T>({rows.n, K, V}, {grad_read, V}, {memory, V, true}, {product_, K});
    for (int64_t i = 0; i < rows.n; ++i) {
      reads_[i] += static_cast<double>(row_dot(K, by + rows.offset(i, K), product_ + i * K));
      add_multiple(K, T{1}, product_ + i * K, grad + i * K);
    }
  }

  void put_decays(const ChunkRows& rows, const T* memory) {
    double kept = 0.0;
    if (memory != nullptr && is_read_later_) {
      kept = static_cast<double>(chunk_.total * row_dot(shape_.K * shape_.V, grad_memory_, memory));
    }
    // writes_ becomes the sum before t, reads_ the sum from t on.
    double before = 0.0;
    for (int64_t t = 0; t < rows.n; ++t) {
      const double write = writes_[t];
      writes_[t] = before;
      before += write;
    }
    for (int64_t t = rows.n - 2; t >= 0; --t) reads_[t] += reads_[t + 1];
    for (int64_t t = 0; t < rows.n; ++t) {
      const T value = static_cast<T>(pairs_[t] + reads_[t] + writes_[t] + kept);
      put_gradient(args_.grad_log_decay.from(rows.offset(t, 1)), 1, [=](int64_t) { return value; });
    }
  }

  /// Z becomes dS.
  void pass_on(const ChunkRows& rows) {
    const auto [rule, H, K, V, scale, C] = shape_;
    const T kept = is_read_later_ ? chunk_.total : T{0};
    gemm_serial<T>({K, V, rows.n}, rows.operand(args_.q, K, true), {grad_read_, V},
                   {grad_memory_, V, T{1}, kept});
    if (is_delta_) {
      gemm_serial<T>({K, V, rows.n}, rows.operand(args_.k, K, true), {grad_held_, V},
                     {grad_memory_, V, T{1}, T{1}});
    }
    is_read_later_ = true;
  }

  const MemoryShape& shape_;
  const MemoryBackward<T>& args_;
  bool is_delta_;
  bool is_read_later_ = false;  // else Z is zero and holds no numbers yet
  MemoryChunk<T> chunk_;
  T* grad_memory_;    // [K, V]: Z
  T* scores_;         // [n, C]: P
  T* grad_scores_;    // [n, C]: dP, then dB / scale
  T* overlaps_;       // [n, C]: diag(beta) N
  T* grad_overlaps_;  // [n, C]: dL, then dA + dA^T
  T* written_;        // [n, V]: U
  T* grad_written_;   // [n, V]: dU, then R, then dV
  T* grad_read_;      // [n, V]: X
  T* grad_held_;      // [n, V]: Y
  T* keys_;           // [n, K], decayed to the end of the chunk
  T* grad_q_;         // [n, K]
  T* grad_k_;         // [n, K]
  T* product_;        // [n, K]
  double* pairs_;     // [n]: sums of W over i >= t and j < t
  double* reads_;     // [n]: x
  double* writes_;    // [n]: z
};

}  // namespace

template <class T>
void gated_delta_rule_backward(const MemoryShape& shape, std::span<const MemorySegment> segments,
                               const MemoryBackward<T>& args) {
  for_each_memory(shape, segments, [&](int64_t index, int64_t h) {
    ArenaScope scratch(thread_arena());
    BackwardScan<T>(scratch, shape, args).run(segments[static_cast<size_t>(index)], h);
  });
}

template void gated_delta_rule_backward(const MemoryShape&, std::span<const MemorySegment>,
                                        const MemoryBackward<float>&);
template void gated_delta_rule_backward(const MemoryShape&, std::span<const MemorySegment>,
                                        const MemoryBackward<double>&);

}  // namespace sluice::kernels
