#include "autograd/ops/stick_breaking_attention.h"

#include "autograd/kernels/stick_breaking_attention.h"
#include "autograd/ops/attention_common.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "stick_breaking_attention";

OpSample sample(std::string label, SampleFactory& make, const Shape& q, const Shape& k,
                const Shape& v, std::vector<int64_t> documents, bool heads_alternate = false) {
  return {.label = std::move(label),
          .inputs = {make.uniform(q), make.uniform(k), make.uniform(v)},
          .differentiable = {true, true, true},
          .apply = [documents = std::move(documents), heads_alternate](
                       Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {stick_breaking_attention(tape, in[0], in[1], in[2],
                                             {documents, 0.5, heads_alternate})};
          }};
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {sample("one document", make, {7, 2, 4}, {7, 2, 4}, {7, 2, 4}, {0, 7}),
          sample("grouped queries", make, {6, 4, 3}, {6, 2, 3}, {6, 2, 5}, {0, 6}),
          sample("alternating heads", make, {6, 4, 3}, {6, 2, 3}, {6, 2, 3}, {0, 6}, true),
          sample("packed documents", make, {9, 2, 4}, {9, 1, 4}, {9, 1, 2}, {0, 1, 4, 9}),
          sample("several tiles", make, {240, 1, 2}, {240, 1, 2}, {240, 1, 2}, {0, 20, 240}),
          sample("no token", make, {0, 2, 4}, {0, 2, 4}, {0, 2, 4}, {0})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  return {sample("heads do not divide", make, {7, 3, 4}, {7, 2, 4}, {7, 2, 4}, {0, 7}),
          sample("widths differ", make, {7, 2, 4}, {7, 2, 5}, {7, 2, 5}, {0, 7}),
          sample("fewer values than keys", make, {7, 2, 4}, {7, 2, 4}, {6, 2, 4}, {0, 7}),
          sample("tokens differ", make, {7, 2, 4}, {6, 2, 4}, {6, 2, 4}, {0, 7}),
          sample("documents end early", make, {7, 2, 4}, {7, 2, 4}, {7, 2, 4}, {0, 6}),
          sample("two dimensions", make, {7, 8}, {7, 8}, {7, 8}, {0, 7})};
}

kernels::AttentionShape shape_of(const Tensor& q, const Tensor& k, const Tensor& v,
                                 const StickBreakingOptions& options) {
  return {.H = q.dim(1),
          .K = k.dim(1),
          .P = q.dim(2),
          .scale = options.scale,
          .V = v.dim(2),
          .heads_alternate = options.heads_alternate};
}

}  // namespace

const OpInfo& stick_breaking_attention_info() {
  static constexpr OpInfo kInfo{
      kOp,
      "o[n, h] = sum_{j <= n} s(z[n, j]) prod_{j < l <= n} (1 - s(z[n, l])) v[j], s = sigmoid, "
      "z[n, j] = scale q[n, h] . k[j]",
      samples, misuses};
  return kInfo;
}

namespace {

Tensor attend(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
              const kernels::AttentionShape& shape,
              std::span<const kernels::AttentionSegment> segments, double pairs) {
  Tensor o = tape.empty({q.dim(0), q.dim(1), v.dim(2)}, q.dtype());
  tape.run(stick_breaking_attention_info(), cost_of_pairs(shape, pairs, 1, {q, k, v, o}), [&] {
    dispatch_float(q.dtype(), [&]<class T>() {
      kernels::stick_breaking_attention<T>(shape, segments,
                                           {q.data<T>(), k.data<T>(), v.data<T>(), o.data<T>()});
    });
  });
  return o;
}

}  // namespace

Tensor stick_breaking_attention(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                                const StickBreakingOptions& options) {
  check_heads(kOp, q, k, v);
  check_documents(kOp, q, k, options.document_offsets);
  ArenaScope scratch(thread_arena());
  const auto segments = segments_of(scratch, options.document_offsets);
  const auto shape = shape_of(q, k, v, options);
  const double pairs = allowed_pairs(shape, segments);
  Tensor o = attend(tape, q, k, v, shape, segments, pairs);
  tape.record(
      stick_breaking_attention_info(), {q, k, v}, {&o}, {q, k, v, o},
      [shape, pairs, documents = options.document_offsets](Backward& b) {
        const Tensor grad_o = b.grad(0);
        GradTarget grad_q = wanted_target(b, 0);
        GradTarget grad_k = wanted_target(b, 1);
        GradTarget grad_v = wanted_target(b, 2);
        ArenaScope backward_scratch(thread_arena());
        const auto backward_segments = segments_of(backward_scratch, documents);
        // Two products for each of the forward's: the scores, computed again, are no useful work.
        b.run(cost_of_pairs(shape, pairs, 2, {grad_o, grad_q.tensor, grad_k.tensor, grad_v.tensor}),
              [&] {
                dispatch_float(grad_o.dtype(), [&]<class T>() {
                  kernels::stick_breaking_attention_backward<T>(
                      shape, backward_segments,
                      {b.saved(0).data<T>(), b.saved(1).data<T>(), b.saved(2).data<T>(),
                       b.saved(3).data<T>(), nullptr, grad_o.data<T>(), gradient<T>(grad_q),
                       gradient<T>(grad_k), gradient<T>(grad_v)});
                });
              });
      });
  return o;
}

Tensor cached_stick_breaking_attention(Tape& tape, const Tensor& q, const Tensor& k,
                                       const Tensor& v, int64_t length,
                                       const StickBreakingOptions& options) {
  constexpr std::string_view kCached = "cached_stick_breaking_attention";
  check_heads(kCached, q, k, v);
  check_cache_length(kCached, q, k, length);
  const NoGrad no_grad(tape);
  const auto shape = shape_of(q, k, v, options);
  const kernels::AttentionSegment segment{0, q.dim(0), 0, length};
  const std::span<const kernels::AttentionSegment> segments(&segment, q.dim(0) > 0 ? 1 : 0);
  return attend(tape, q, k, v, shape, segments, allowed_pairs(shape, segments));
}

}  // namespace sluice
