#include "autograd/ops/causal_attention.h"

#include <algorithm>

#include "autograd/kernels/causal_attention.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "causal_attention";

OpSample sample(std::string label, SampleFactory& make, const Shape& q, const Shape& k,
                std::vector<int64_t> documents, std::optional<int64_t> window = {}) {
  return {.label = std::move(label),
          .inputs = {make.uniform(q), make.uniform(k), make.uniform(k)},
          .differentiable = {true, true, true},
          .apply = [documents = std::move(documents), window](
                       Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {causal_attention(tape, in[0], in[1], in[2], {documents, 0.5, window})};
          }};
}

/// The same documents with rotary positions that begin again in each.
OpSample turned_sample(std::string label, SampleFactory& make, RopeLayout layout, int64_t width,
                       int64_t rotary_dim) {
  OpSample result{.label = std::move(label),
                  .inputs = {make.uniform({9, 4, width}), make.uniform({9, 2, width}),
                             make.uniform({9, 2, width})},
                  .differentiable = {true, true, true}};
  const AttentionRope rope{make.integers({9}, {0, 0, 1, 2, 0, 1, 2, 3, 4}),
                           rope_table(make.pool(), make.dtype(), {.rotary_dim = rotary_dim}, 5),
                           layout};
  result.apply = [rope](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
    static constexpr int64_t kDocuments[] = {0, 1, 4, 9};
    return {causal_attention(tape, in[0], in[1], in[2], {kDocuments, 0.5, {}, rope})};
  };
  return result;
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {turned_sample("rope in halves", make, RopeLayout::half_split, 6, 6),
          turned_sample("interleaved rope of a part", make, RopeLayout::interleaved, 7, 4),
          sample("one document", make, {7, 2, 4}, {7, 2, 4}, {0, 7}),
          sample("grouped queries", make, {6, 4, 3}, {6, 2, 3}, {0, 6}),
          sample("packed documents", make, {9, 2, 4}, {9, 1, 4}, {0, 1, 4, 9}),
          sample("window", make, {9, 2, 4}, {9, 2, 4}, {0, 9}, 3),
          sample("several tiles", make, {300, 1, 2}, {300, 1, 2}, {0, 20, 300}, 200),
          sample("no token", make, {0, 2, 4}, {0, 2, 4}, {0})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  return {sample("heads do not divide", make, {7, 3, 4}, {7, 2, 4}, {0, 7}),
          sample("widths differ", make, {7, 2, 4}, {7, 2, 5}, {0, 7}),
          sample("tokens differ", make, {7, 2, 4}, {6, 2, 4}, {0, 7}),
          sample("documents end early", make, {7, 2, 4}, {7, 2, 4}, {0, 6}),
          sample("two dimensions", make, {7, 8}, {7, 8}, {0, 7})};
}

void check_heads(std::string_view op, const Tensor& q, const Tensor& k, const Tensor& v) {
  check_rank(op, "q", q, 3, "[N, H, P]");
  check_rank(op, "k", k, 3, "[N, K, P]");
  check_same_dtype(op, {"q", q}, {"k", k});
  check_alike(op, {"k", k}, {"v", v});
  SLUICE_CHECK(ShapeError, q.dim(2) == k.dim(2),
               "{}: q is {} but k is {}; head widths {} and {} differ", op, q.shape(), k.shape(),
               q.dim(2), k.dim(2));
  SLUICE_CHECK(ShapeError, k.dim(1) > 0 && q.dim(1) % k.dim(1) == 0,
               "{}: q has {} heads, k has {}; expected a multiple", op, q.dim(1), k.dim(1));
}

kernels::AttentionShape shape_of(const Tensor& q, const Tensor& k, double scale,
                                 std::optional<int64_t> window) {
  return {q.dim(1), k.dim(1), q.dim(2), scale, window.value_or(kernels::kNoWindow)};
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

/// Allowed pairs of a query and a key: what the products are counted by.
double allowed_pairs(std::span<const kernels::AttentionSegment> segments, int64_t window) {
  double pairs = 0.0;
  for (const auto& segment : segments) {
    for (int64_t key = segment.k_end - segment.k_begin, query = segment.q_end - segment.q_begin;
         query > 0; --query, --key) {
      pairs += static_cast<double>(std::min(key, window));
    }
  }
  return pairs;
}

KernelCost cost_of(const kernels::AttentionShape& shape, double pairs, int products,
                   std::initializer_list<Tensor> moved) {
  KernelCost cost = moving(moved);
  cost.flops = 2.0 * products * pairs * static_cast<double>(shape.H * shape.P);
  return cost;
}

/// How q and k turn; nothing without positions.
template <class T>
std::optional<kernels::Rope<T>> rope_of(const Tensor& q, RopeLayout layout, const Tensor& positions,
                                        const Tensor& cos, const Tensor& sin) {
  if (!positions.defined()) return {};
  return rope_view<T>(q, layout, positions, cos, sin);
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
  if (rope.positions.defined()) check_rope(kOp, q, rope.positions, rope.table);
  ArenaScope scratch(thread_arena());
  const auto segments = segments_of(scratch, documents);
  const auto shape = shape_of(q, k, options.scale, options.window);
  const double pairs = allowed_pairs(segments, shape.window);
  Tensor o = tape.empty(q.shape(), q.dtype());
  const bool backward_follows =
      tape.requires_grad(q) || tape.requires_grad(k) || tape.requires_grad(v);
  Tensor lse = backward_follows ? tape.empty({q.dim(0), q.dim(1)}, q.dtype()) : Tensor();
  tape.run(causal_attention_info(), cost_of(shape, pairs, 2, {q, k, v, o}), [&] {
    dispatch_float(q.dtype(), [&]<class T>() {
      const auto turn = rope_of<T>(q, rope.layout, rope.positions, rope.table.cos, rope.table.sin);
      kernels::causal_attention<T>(
          shape, segments,
          {q.data<T>(), k.data<T>(), v.data<T>(), o.data<T>(),
           lse.defined() ? lse.data<T>() : nullptr, turn ? &*turn : nullptr});
    });
  });
  tape.record(
      causal_attention_info(), {q, k, v}, {&o},
      {q, k, v, o, lse, rope.positions, rope.table.cos, rope.table.sin},
      [shape, pairs, documents, layout = rope.layout](Backward& b) {
        const Tensor grad_o = b.grad(0);
        GradTarget grad_q = wanted_target(b, 0);
        GradTarget grad_k = wanted_target(b, 1);
        GradTarget grad_v = wanted_target(b, 2);
        ArenaScope backward_scratch(thread_arena());
        const auto backward_segments = segments_of(backward_scratch, documents);
        // Two products for each of the forward's: the scores, computed again, are no useful work.
        b.run(cost_of(shape, pairs, 4, {grad_o, grad_q.tensor, grad_k.tensor, grad_v.tensor}), [&] {
          dispatch_float(grad_o.dtype(), [&]<class T>() {
            const auto turn = rope_of<T>(b.saved(0), layout, b.saved(5), b.saved(6), b.saved(7));
            kernels::causal_attention_backward<T>(
                shape, backward_segments,
                {b.saved(0).data<T>(), b.saved(1).data<T>(), b.saved(2).data<T>(),
                 b.saved(3).data<T>(), b.saved(4).data<T>(), grad_o.data<T>(), gradient<T>(grad_q),
                 gradient<T>(grad_k), gradient<T>(grad_v), turn ? &*turn : nullptr});
          });
        });
      });
  return o;
}

Tensor cached_attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                        int64_t length, double scale, std::optional<int64_t> window) {
  constexpr std::string_view kCached = "cached_attention";
  check_heads(kCached, q, k, v);
  SLUICE_CHECK(ShapeError, q.dim(0) <= length && length <= k.dim(0),
               "{}: {} queries and a cache of {} rows cannot have {} filled", kCached, q.dim(0),
               k.dim(0), length);
  const NoGrad no_grad(tape);
  const auto shape = shape_of(q, k, scale, window);
  const kernels::AttentionSegment segment{0, q.dim(0), 0, length};
  const std::span<const kernels::AttentionSegment> segments(&segment, q.dim(0) > 0 ? 1 : 0);
  Tensor o = tape.empty(q.shape(), q.dtype());
  const double pairs = allowed_pairs(segments, shape.window);
  tape.run(causal_attention_info(), cost_of(shape, pairs, 2, {q, k, v, o}), [&] {
    dispatch_float(q.dtype(), [&]<class T>() {
      kernels::causal_attention<T>(shape, segments,
                                   {q.data<T>(), k.data<T>(), v.data<T>(), o.data<T>(), nullptr});
    });
  });
  return o;
}

}  // namespace sluice
