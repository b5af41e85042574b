#include "autograd/kernels/gated_delta_rule.h"

#include "autograd/kernels/memory_chunk.h"

namespace sluice::kernels {
namespace {

/// One head of one segment, from its first chunk to its last.
template <class T>
class ForwardScan {
 public:
  ForwardScan(ArenaScope& scratch, const MemoryShape& shape, const MemoryForward<T>& args)
      : shape_(shape),
        args_(args),
        is_delta_(shape.rule == MemoryRule::delta),
        chunk_(scratch, shape),
        memory_(scratch.allocate<T>(shape.K * shape.V)),
        scores_(scratch.allocate<T>(shape.chunk * shape.chunk)),
        overlaps_(scratch.allocate<T>(is_delta_ ? shape.chunk * shape.chunk : 0)),
        read_(scratch.allocate<T>(shape.chunk * shape.V)),
        written_(scratch.allocate<T>(shape.chunk * shape.V)),
        keys_(scratch.allocate<T>(shape.chunk * shape.K)) {}

  void run(const MemorySegment& segment, int64_t index, int64_t h) {
    const int64_t size = shape_.K * shape_.V;
    has_memory_ = args_.initial != nullptr;
    if (has_memory_) std::copy_n(args_.initial + (index * shape_.H + h) * size, size, memory_);
    int64_t state = segment.first_state;
    for (int64_t t = segment.begin; t < segment.end; t += shape_.chunk) {
      const ChunkRows rows{t, std::min(shape_.chunk, segment.end - t), shape_.H, h};
      if (t > segment.begin && args_.states != nullptr) {
        std::copy_n(memory_, size, args_.states + (state++ * shape_.H + h) * size);
      }
      const bool is_last = t + shape_.chunk >= segment.end;
      advance(rows, !is_last || args_.final != nullptr);
    }
    if (args_.final == nullptr) return;
    T* final = args_.final + (index * shape_.H + h) * size;
    if (has_memory_) {
      std::copy_n(memory_, size, final);
    } else {
      std::fill_n(final, size, T{0});
    }
  }

 private:
  void advance(const ChunkRows& rows, bool writes) {
    const auto [rule, H, K, V, scale, C] = shape_;
    const int64_t n = rows.n;
    const auto q = rows.operand(args_.q, K);
    const auto k = rows.operand(args_.k, K);
    chunk_.load(rows, args_.log_decay, args_.beta);
    chunk_.multiply_rows(K, q, k, static_cast<T>(scale), scores_);
    chunk_.mask(scores_, true);
    find_written(rows);
    for (int64_t i = 0; i < n; ++i) {
      T* row = written_ + i * V;
      if (args_.written != nullptr && is_delta_) {
        std::copy_n(row, V, args_.written + rows.offset(i, V));
      }
      if (args_.beta != nullptr) put_multiple(V, chunk_.beta[i], row, row);
    }
    T* o = args_.o + rows.offset(0, V);
    if (has_memory_) {
      gemm_serial<T>({n, V, K}, q, {memory_, V}, {read_, V});
      for (int64_t i = 0; i < n; ++i) {
        put_multiple(V, static_cast<T>(scale) * chunk_.from_start[i], read_ + i * V, o + i * H * V);
      }
    }
    gemm_serial<T>({n, V, n}, {scores_, C}, {written_, V},
                   {o, H * V, T{1}, has_memory_ ? T{1} : T{0}});
    if (!writes) return;
    for (int64_t i = 0; i < n; ++i) {
      put_multiple(K, chunk_.to_end[i], args_.k + rows.offset(i, K), keys_ + i * K);
    }
    gemm_serial<T>({K, V, n}, {keys_, K, true}, {written_, V},
                   {memory_, V, T{1}, has_memory_ ? chunk_.total : T{0}});
    has_memory_ = true;
  }

  /// E: v, less what the memory and the chunk's earlier tokens hold of it.
  void find_written(const ChunkRows& rows) {
    const auto [rule, H, K, V, scale, C] = shape_;
    const int64_t n = rows.n;
    for (int64_t i = 0; i < n; ++i) std::copy_n(args_.v + rows.offset(i, V), V, written_ + i * V);
    if (!is_delta_) return;
    const auto k = rows.operand(args_.k, K);
    if (has_memory_) {
      gemm_serial<T>({n, V, K}, k, {memory_, V}, {read_, V});
      for (int64_t i = 0; i < n; ++i) {
        add_multiple(V, -chunk_.from_start[i], read_ + i * V, written_ + i * V);
      }
    }
    chunk_.multiply_rows(K, k, k, T{1}, overlaps_);
    chunk_.mask(overlaps_, false);
    if (args_.beta != nullptr) {
      for (int64_t i = 1; i < n; ++i) MemoryChunk<T>::multiply(i, chunk_.beta, overlaps_ + i * C);
    }
    chunk_.solve_lower(overlaps_, V, written_);
  }

  const MemoryShape& shape_;
  const MemoryForward<T>& args_;
  bool is_delta_;
  bool has_memory_ = false;  // else it is empty and holds no numbers yet
  MemoryChunk<T> chunk_;
  T* memory_;    // [K, V]: S
  T* scores_;    // [n, C]: scale tril(Q K^T . D)
  T* overlaps_;  // [n, C]: N diag(beta)
  T* read_;      // [n, V]
  T* written_;   // [n, V]: E, then U
  T* keys_;      // [n, K], decayed to the end of the chunk
};

}  // namespace

template <class T>
void gated_delta_rule(const MemoryShape& shape, std::span<const MemorySegment> segments,
                      const MemoryForward<T>& args) {
  for_each_memory(shape, segments, [&](int64_t index, int64_t h) {
    ArenaScope scratch(thread_arena());
    ForwardScan<T>(scratch, shape, args).run(segments[static_cast<size_t>(index)], index, h);
  });
}

template void gated_delta_rule(const MemoryShape&, std::span<const MemorySegment>,
                               const MemoryForward<float>&);
template void gated_delta_rule(const MemoryShape&, std::span<const MemorySegment>,
                               const MemoryForward<double>&);

}  // namespace sluice::kernels
