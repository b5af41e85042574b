#include "autograd/ops/causal_attention.h"

#include <algorithm>

#include "autograd/kernels/causal_attention.h"
#include "autograd/ops/common.h"
#include "autograd/ops/reshape.h"
#include "autograd/support/parallel.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "causal_attention";

OpSample sample(std::string label, SampleFactory& make, const Shape& q, const Shape& k,
                std::vector<int64_t> documents, std::optional<int64_t> window = {},
                std::optional<Shape> v = {}) {
  return {.label = std::move(label),
          .inputs = {make.uniform(q), make.uniform(k), make.uniform(v.value_or(k))},
          .differentiable = {true, true, true},
          .apply = [documents = std::move(documents), window](
                       Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {causal_attention(tape, in[0], in[1], in[2], {documents, 0.5, window})};
          }};
}

/// Two documents, each key head with a window of its own.
OpSample sample_of_windows(std::string label, SampleFactory& make, std::vector<int64_t> windows) {
  const Shape shape{9, 2, 4};
  return {.label = std::move(label),
          .inputs = {make.uniform(shape), make.uniform(shape), make.uniform(shape)},
          .differentiable = {true, true, true},
          .apply = [windows = std::move(windows)](
                       Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            static constexpr int64_t kDocuments[] = {0, 2, 9};
            CausalAttentionOptions options{kDocuments, 0.5};
            options.windows = windows;
            return {causal_attention(tape, in[0], in[1], in[2], options)};
          }};
}

/// Two documents; a query sees itself, the first `first` chunks of two keys and one it was given.
OpSample sample_of_chunks(std::string label, SampleFactory& make, const Tensor& chosen,
                          int64_t first) {
  return {.label = std::move(label),
          .inputs = {make.uniform({9, 2, 4}), make.uniform({9, 1, 4}), make.uniform({9, 1, 3})},
          .differentiable = {true, true, true},
          .apply = [chosen, first](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            static constexpr int64_t kDocuments[] = {0, 2, 9};
            CausalAttentionOptions options{kDocuments, 0.5, 1};
            options.chunks = {2, first, chosen};
            return {causal_attention(tape, in[0], in[1], in[2], options)};
          }};
}

/// The same documents with rotary positions that begin again in each.
OpSample turned_sample(std::string label, SampleFactory& make, RopeLayout layout, int64_t width,
                       int64_t rotary_dim, int64_t first = 0) {
  OpSample result{.label = std::move(label),
                  .inputs = {make.uniform({9, 4, width}), make.uniform({9, 2, width}),
                             make.uniform({9, 2, width})},
                  .differentiable = {true, true, true}};
  const AttentionRope rope{make.integers({9}, {0, 0, 1, 2, 0, 1, 2, 3, 4}),
                           rope_table(make.pool(), make.dtype(), {.rotary_dim = rotary_dim}, 5),
                           layout, first};
  result.apply = [rope](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
    static constexpr int64_t kDocuments[] = {0, 1, 4, 9};
    return {causal_attention(tape, in[0], in[1], in[2], {kDocuments, 0.5, {}, rope})};
  };
  return result;
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {
      turned_sample("rope in halves", make, RopeLayout::half_split, 6, 6),
      turned_sample("interleaved rope of a part", make, RopeLayout::interleaved, 7, 4),
      turned_sample("interleaved rope of the last part", make, RopeLayout::interleaved, 7, 4, 3),
      turned_sample("rope in halves of a middle part", make, RopeLayout::half_split, 7, 4, 2),
      sample("one document", make, {7, 2, 4}, {7, 2, 4}, {0, 7}),
      sample("wider keys than values", make, {7, 2, 5}, {7, 1, 5}, {0, 3, 7}, {}, {{7, 1, 2}}),
      sample_of_windows("a window for each head", make, {1, 4}),
      sample_of_chunks("chunks", make, make.integers({9, 1, 1}, {-1, 0, -1, 0, 0, 1, 0, 2, 1}), 1),
      sample("grouped queries", make, {6, 4, 3}, {6, 2, 3}, {0, 6}),
      sample("packed documents", make, {9, 2, 4}, {9, 1, 4}, {0, 1, 4, 9}),
      sample("window", make, {9, 2, 4}, {9, 2, 4}, {0, 9}, 3),
      sample("several tiles", make, {300, 1, 2}, {300, 1, 2}, {0, 20, 300}, 200),
      sample("no token", make, {0, 2, 4}, {0, 2, 4}, {0})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  return {sample("heads do not divide", make, {7, 3, 4}, {7, 2, 4}, {0, 7}),
          sample("widths differ", make, {7, 2, 4}, {7, 2, 5}, {0, 7}),
          sample("fewer values than keys", make, {7, 2, 4}, {7, 2, 4}, {0, 7}, {}, {{6, 2, 4}}),
          sample("heads of values differ", make, {7, 2, 4}, {7, 2, 4}, {0, 7}, {}, {{7, 1, 4}}),
          turned_sample("rope past the head", make, RopeLayout::half_split, 7, 4, 4),
          sample_of_windows("too few windows", make, {4}),
          sample_of_chunks("chunks of too few tokens", make,
                           make.integers({8, 1, 1}, {-1, 0, -1, 0, 0, 1, 0, 2}), 1),
          sample_of_chunks("chunk past the document", make,
                           make.integers({9, 1, 1}, {-1, 1, -1, 0, 0, 1, 0, 2, 1}), 1),
          sample("tokens differ", make, {7, 2, 4}, {6, 2, 4}, {0, 7}),
          sample("documents end early", make, {7, 2, 4}, {7, 2, 4}, {0, 6}),
          sample("two dimensions", make, {7, 8}, {7, 8}, {0, 7})};
}

void check_heads(std::string_view op, const Tensor& q, const Tensor& k, const Tensor& v) {
  check_rank(op, "q", q, 3, "[N, H, P]");
  check_rank(op, "k", k, 3, "[N, K, P]");
  check_rank(op, "v", v, 3, "[N, K, V]");
  check_same_dtype(op, {"q", q}, {"k", k});
  check_same_dtype(op, {"k", k}, {"v", v});
  check_shape(op, "v", v, {k.dim(0), k.dim(1), v.dim(2)});
  SLUICE_CHECK(ShapeError, q.dim(2) == k.dim(2),
               "{}: q is {} but k is {}; head widths {} and {} differ", op, q.shape(), k.shape(),
               q.dim(2), k.dim(2));
  SLUICE_CHECK(ShapeError, k.dim(1) > 0 && q.dim(1) % k.dim(1) == 0,
               "{}: q has {} heads, k has {}; expected a multiple", op, q.dim(1), k.dim(1));
}

/// Which keys a query sees of those before it in its document.
struct Reach {
  std::optional<int64_t> window;
  std::span<const int64_t> windows;
  AttentionChunks chunks;
};

void check_reach(std::string_view op, const Tensor& q, const Tensor& k, const Reach& reach) {
  const auto windows = static_cast<int64_t>(reach.windows.size());
  SLUICE_CHECK(ShapeError, windows == 0 || windows == k.dim(1), "{}: {} windows for {} key heads",
               op, windows, k.dim(1));
  if (reach.chunks.chunk == 0) return;
  const Tensor& chosen = reach.chunks.chosen;
  check_dtype(op, "chunks", chosen, DType::i32);
  check_rank(op, "chunks", chosen, 3, "[N, K, b]");
  check_shape(op, "chunks", chosen, {q.dim(0), k.dim(1), chosen.dim(2)});
}

/// Chunks must begin in their document, before the end of it.
void check_chosen(std::string_view op, std::span<const kernels::AttentionSegment> segments,
                  const AttentionChunks& chunks) {
  if (chunks.chunk == 0 || !chunks.chosen.has_memory()) return;
  const auto chosen = chunks.chosen.span<int32_t>();
  const int64_t each = chunks.chosen.dim(1) * chunks.chosen.dim(2);
  for (const auto& segment : segments) {
    const int64_t count = ceil_div(segment.k_end - segment.k_begin, chunks.chunk);
    for (int64_t i = segment.q_begin * each; i < segment.q_end * each; ++i) {
      const int32_t c = chosen[static_cast<size_t>(i)];
      SLUICE_CHECK(ShapeError, c >= -1 && c < count,
                   "{}: token {} is given chunk {}, its document has {}", op, i / each, c, count);
    }
  }
}

kernels::KeyChunks key_chunks(const AttentionChunks& chunks, const Tensor& chosen) {
  if (chunks.chunk == 0) return {};
  return {chunks.chunk, chunks.first, chosen.dim(2),
          chosen.has_memory() ? chosen.data<int32_t>() : nullptr};
}

/// `chunks` outlives the result, and so do the windows.
kernels::AttentionShape shape_of(const Tensor& q, const Tensor& k, int64_t V, double scale,
                                 std::optional<int64_t> window, std::span<const int64_t> windows,
                                 const kernels::KeyChunks& chunks) {
  return {.H = q.dim(1),
          .K = k.dim(1),
          .P = q.dim(2),
          .scale = scale,
          .window = window.value_or(kernels::kNoWindow),
          .V = V,
          .windows = windows.empty() ? nullptr : windows.data(),
          .chunks = chunks.chunk == 0 ? nullptr : &chunks};
}

/// One segment per document piece that has tokens.
std::span<const kernels::AttentionSegment> segments_of(ArenaScope& scratch,
                                                       std::span<const int64_t> offsets) {
  const size_t documents = offsets.empty() ? 0 : offsets.size() - 1;
  auto* segments = scratch.allocate<kernels::AttentionSegment>(static_cast<int64_t>(documents));
  size_t count = 0;
  for (size_t d = 0; d < documents; ++d) {
    if (offsets[d] < offsets[d + 1]) {
      segments[count++] = {offsets[d], offsets[d + 1], offsets[d], offsets[d + 1]};
    }
  }
  return {segments, count};
}

/// Allowed pairs of a query and a key, over all heads: what the products are counted by. With chunks
/// as many as there can be, so that shapes alone tell.
double allowed_pairs(const kernels::AttentionShape& shape,
                     std::span<const kernels::AttentionSegment> segments) {
  double pairs = 0.0;
  const auto* chunks = shape.chunks;
  const int64_t beside =
      chunks == nullptr ? 0 : chunks->chunk * (chunks->first + chunks->per_query);
  for (int64_t head = 0; head < shape.K; ++head) {
    // A window that does not end is no longer than any document.
    const int64_t window = std::min(shape.window_of(head), kernels::kNoWindow - beside) + beside;
    for (const auto& segment : segments) {
      for (int64_t key = segment.k_end - segment.k_begin, query = segment.q_end - segment.q_begin;
           query > 0; --query, --key) {
        pairs += static_cast<double>(std::min(key, window));
      }
    }
    if (shape.windows == nullptr) return pairs * static_cast<double>(shape.H);
  }
  return pairs * static_cast<double>(shape.H / shape.K);
}

/// `times`: how often the two products, with the keys and with the values, are done.
KernelCost cost_of(const kernels::AttentionShape& shape, double pairs, int times,
                   std::initializer_list<Tensor> moved) {
  KernelCost cost = moving(moved);
  cost.flops = 2.0 * times * pairs * static_cast<double>(shape.P + shape.value_width());
  return cost;
}

/// How q and k turn; nothing without positions.
template <class T>
std::optional<kernels::Rope<T>> rope_of(const Tensor& q, RopeLayout layout, int64_t first,
                                        const Tensor& positions, const Tensor& cos,
                                        const Tensor& sin) {
  if (!positions.defined()) return {};
  return rope_view<T>(q, layout, positions, cos, sin, first);
}

}  // namespace

const OpInfo& causal_attention_info() {
  static constexpr OpInfo kInfo{
      kOp, "o[n, h] = sum_{j <= n} softmax_j(scale q[n, h] . k[j, h / G]) v[j, h / G]", samples,
      misuses};
  return kInfo;
}

Tensor causal_attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                        const CausalAttentionOptions& options) {
  check_heads(kOp, q, k, v);
  const auto documents = options.document_offsets;
  SLUICE_CHECK(ShapeError, q.dim(0) == k.dim(0), "{}: q is {} but k is {}; tokens differ", kOp,
               q.shape(), k.shape());
  const int64_t end = documents.empty() ? 0 : documents.back();
  SLUICE_CHECK(ShapeError, end == q.dim(0), "{}: documents end at token {}, q has {} tokens", kOp,
               end, q.dim(0));
  const AttentionRope& rope = options.rope;
  if (rope.positions.defined()) check_rope(kOp, q, rope.positions, rope.table, rope.first);
  check_reach(kOp, q, k, {options.window, options.windows, options.chunks});
  ArenaScope scratch(thread_arena());
  const auto segments = segments_of(scratch, documents);
  check_chosen(kOp, segments, options.chunks);
  const kernels::KeyChunks chunks = key_chunks(options.chunks, options.chunks.chosen);
  const auto shape =
      shape_of(q, k, v.dim(2), options.scale, options.window, options.windows, chunks);
  const double pairs = allowed_pairs(shape, segments);
  Tensor o = tape.empty({q.dim(0), q.dim(1), v.dim(2)}, q.dtype());
  const bool backward_follows =
      tape.requires_grad(q) || tape.requires_grad(k) || tape.requires_grad(v);
  Tensor lse = backward_follows ? tape.empty({q.dim(0), q.dim(1)}, q.dtype()) : Tensor();
  tape.run(causal_attention_info(), cost_of(shape, pairs, 1, {q, k, v, o}), [&] {
    dispatch_float(q.dtype(), [&]<class T>() {
      const auto turn =
          rope_of<T>(q, rope.layout, rope.first, rope.positions, rope.table.cos, rope.table.sin);
      kernels::causal_attention<T>(
          shape, segments,
          {q.data<T>(), k.data<T>(), v.data<T>(), o.data<T>(),
           lse.defined() ? lse.data<T>() : nullptr, turn ? &*turn : nullptr});
    });
  });
  tape.record(
      causal_attention_info(), {q, k, v}, {&o},
      {q, k, v, o, lse, rope.positions, rope.table.cos, rope.table.sin, options.chunks.chosen},
      [shape, chunks, pairs, documents, layout = rope.layout, first = rope.first](Backward& b) {
        const Tensor grad_o = b.grad(0);
        GradTarget grad_q = wanted_target(b, 0);
        GradTarget grad_k = wanted_target(b, 1);
        GradTarget grad_v = wanted_target(b, 2);
        ArenaScope backward_scratch(thread_arena());
        const auto backward_segments = segments_of(backward_scratch, documents);
        kernels::AttentionShape of_closure = shape;
        if (chunks.chunk > 0) of_closure.chunks = &chunks;
        // Two products for each of the forward's: the scores, computed again, are no useful work.
        b.run(cost_of(shape, pairs, 2, {grad_o, grad_q.tensor, grad_k.tensor, grad_v.tensor}), [&] {
          dispatch_float(grad_o.dtype(), [&]<class T>() {
            const auto turn =
                rope_of<T>(b.saved(0), layout, first, b.saved(5), b.saved(6), b.saved(7));
            kernels::causal_attention_backward<T>(
                of_closure, backward_segments,
                {b.saved(0).data<T>(), b.saved(1).data<T>(), b.saved(2).data<T>(),
                 b.saved(3).data<T>(), b.saved(4).data<T>(), grad_o.data<T>(), gradient<T>(grad_q),
                 gradient<T>(grad_k), gradient<T>(grad_v), turn ? &*turn : nullptr});
          });
        });
      });
  return o;
}

namespace {

/// The forward pass of a cache's last tokens, not recorded; the values are columns of rows that are
/// `value_stride` wide, 0 for rows of their own.
Tensor attend_cache(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v, int64_t V,
                    int64_t value_stride, const CachedAttentionOptions& options) {
  constexpr std::string_view kCached = "cached_attention";
  SLUICE_CHECK(ShapeError, q.dim(0) <= options.length && options.length <= k.dim(0),
               "{}: {} queries and a cache of {} rows cannot have {} filled", kCached, q.dim(0),
               k.dim(0), options.length);
  check_reach(kCached, q, k, {options.window, options.windows, options.chunks});
  const NoGrad no_grad(tape);
  const kernels::KeyChunks chunks = key_chunks(options.chunks, options.chunks.chosen);
  const auto shape = shape_of(q, k, V, options.scale, options.window, options.windows, chunks);
  const kernels::AttentionSegment segment{0, q.dim(0), 0, options.length};
  const std::span<const kernels::AttentionSegment> segments(&segment, q.dim(0) > 0 ? 1 : 0);
  check_chosen(kCached, segments, options.chunks);
  Tensor o = tape.empty({q.dim(0), q.dim(1), V}, q.dtype());
  tape.run(causal_attention_info(), cost_of(shape, allowed_pairs(shape, segments), 1, {q, k, v, o}),
           [&] {
             dispatch_float(q.dtype(), [&]<class T>() {
               kernels::causal_attention<T>(shape, segments,
                                            {q.data<T>(), k.data<T>(), v.data<T>(), o.data<T>(),
                                             nullptr, nullptr, value_stride});
             });
           });
  return o;
}

}  // namespace

Tensor cached_attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                        const CachedAttentionOptions& options) {
  check_heads("cached_attention", q, k, v);
  return attend_cache(tape, q, k, v, v.dim(2), 0, options);
}

Tensor cached_latent_attention(Tape& tape, const Tensor& q, const Tensor& cache, int64_t V,
                               const CachedAttentionOptions& options) {
  constexpr std::string_view kLatent = "cached_latent_attention";
  check_rank(kLatent, "cache", cache, 2, "[C, P]");
  SLUICE_CHECK(ShapeError, 0 < V && V <= cache.dim(1), "{}: {} columns of values, cache is {}",
               kLatent, V, cache.shape());
  const NoGrad no_grad(tape);
  const Tensor keys = reshape(tape, cache, {cache.dim(0), 1, cache.dim(1)});
  check_heads(kLatent, q, keys, keys);
  return attend_cache(tape, q, keys, keys, V, cache.dim(1), options);
}

}  // namespace sluice
