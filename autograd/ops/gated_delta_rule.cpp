#include "autograd/ops/gated_delta_rule.h"

#include <algorithm>
#include <vector>

#include "autograd/kernels/gated_delta_rule.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

using kernels::MemoryRule;
using kernels::MemorySegment;
using kernels::MemoryShape;

using ScanOp = Tensor (*)(Tape&, const MemoryTokens&, const MemoryScanOptions&);

struct SampleShape {
  Shape q;
  Shape k;
  Shape v;
  Shape gates;
};

template <ScanOp op>
OpSample sample(std::string label, SampleFactory& make, const SampleShape& s,
                std::vector<int64_t> offsets) {
  return {.label = std::move(label),
          .inputs = {make.uniform(s.q), make.uniform(s.k, -0.6, 0.6), make.uniform(s.v),
                     make.uniform(s.gates, -1.0, 0.0), make.uniform(s.gates, 0.0, 1.0)},
          .differentiable = {true, true, true, true, true},
          .apply = [offsets = std::move(offsets)](
                       Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {op(tape, {in[0], in[1], in[2], in[3], in[4]}, {offsets, 0.5})};
          }};
}

template <ScanOp op>
std::vector<OpSample> samples(SampleFactory& make) {
  OpSample plain{.label = "without gates",
                 .inputs = {make.uniform({7, 1, 4}), make.uniform({7, 1, 4}, -0.6, 0.6),
                            make.uniform({7, 1, 3})},
                 .differentiable = {true, true, true},
                 .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
                   static constexpr int64_t kOffsets[] = {0, 7};
                   return {op(tape, {in[0], in[1], in[2], {}, {}}, {kOffsets, 1.0})};
                 }};
  return {sample<op>("one range", make, {{7, 2, 4}, {7, 2, 4}, {7, 2, 3}, {7, 2}}, {0, 7}),
          sample<op>("packed", make, {{9, 1, 3}, {9, 1, 3}, {9, 1, 5}, {9, 1}}, {0, 1, 4, 4, 9}),
          sample<op>("several chunks", make, {{140, 1, 2}, {140, 1, 2}, {140, 1, 2}, {140, 1}},
                     {0, 9, 140}),
          std::move(plain),
          sample<op>("no token", make, {{0, 2, 4}, {0, 2, 4}, {0, 2, 4}, {0, 2}}, {0})};
}

template <ScanOp op>
std::vector<OpSample> misuses(SampleFactory& make) {
  return {
      sample<op>("widths differ", make, {{7, 2, 4}, {7, 2, 5}, {7, 2, 3}, {7, 2}}, {0, 7}),
      sample<op>("heads differ", make, {{7, 2, 4}, {7, 2, 4}, {7, 1, 3}, {7, 2}}, {0, 7}),
      sample<op>("gates of other heads", make, {{7, 2, 4}, {7, 2, 4}, {7, 2, 3}, {7, 1}}, {0, 7}),
      sample<op>("ranges end early", make, {{7, 2, 4}, {7, 2, 4}, {7, 2, 3}, {7, 2}}, {0, 6}),
      sample<op>("two dimensions", make, {{7, 8}, {7, 8}, {7, 8}, {7, 2}}, {0, 7})};
}

}  // namespace

const OpInfo& gated_delta_rule_info() {
  static constexpr OpInfo kInfo{
      "gated_delta_rule",
      "o[n, h] = scale S_n^T q[n, h], S_n = e^g S_{n-1} + beta k (x) (v - e^g S_{n-1}^T k)",
      samples<gated_delta_rule>, misuses<gated_delta_rule>};
  return kInfo;
}

const OpInfo& linear_attention_scan_info() {
  static constexpr OpInfo kInfo{"linear_attention_scan",
                                "o[n, h] = scale S_n^T q[n, h], S_n = e^g S_{n-1} + beta k (x) v",
                                samples<linear_attention_scan>, misuses<linear_attention_scan>};
  return kInfo;
}

namespace {

const OpInfo& info_of(MemoryRule rule) {
  return rule == MemoryRule::delta ? gated_delta_rule_info() : linear_attention_scan_info();
}

void check_tokens(std::string_view op, const MemoryTokens& t) {
  check_rank(op, "q", t.q, 3, "[N, H, K]");
  check_alike(op, {"q", t.q}, {"k", t.k});
  check_rank(op, "v", t.v, 3, "[N, H, V]");
  check_same_dtype(op, {"q", t.q}, {"v", t.v});
  SLUICE_CHECK(ShapeError, t.v.dim(0) == t.q.dim(0) && t.v.dim(1) == t.q.dim(1),
               "{}: q is {} but v is {}; tokens or heads differ", op, t.q.shape(), t.v.shape());
  for (const Operand& gate : {Operand{"log_decay", t.log_decay}, Operand{"beta", t.beta}}) {
    if (!gate.tensor.defined()) continue;
    check_same_dtype(op, {"q", t.q}, gate);
    check_shape(op, gate.name, gate.tensor, {t.q.dim(0), t.q.dim(1)});
  }
}

MemoryShape shape_of(MemoryRule rule, const MemoryTokens& t, double scale) {
  return {rule, t.q.dim(1), t.q.dim(2), t.v.dim(2), scale};
}

/// The ranges, with where the saved memories of each begin.
std::span<const MemorySegment> segments_of(ArenaScope& scratch, std::span<const int64_t> offsets,
                                           int64_t chunk) {
  const size_t ranges = offsets.empty() ? 0 : offsets.size() - 1;
  auto* list = scratch.allocate<MemorySegment>(static_cast<int64_t>(ranges));
  int64_t states = 0;
  for (size_t i = 0; i < ranges; ++i) {
    list[i] = {offsets[i], offsets[i + 1], states};
    states += kernels::saved_memories(offsets[i + 1] - offsets[i], chunk);
  }
  return {list, ranges};
}

template <class T>
const T* data_or_null(const Tensor& x) {
  return x.defined() ? x.data<T>() : nullptr;
}
template <class T>
T* data_or_null(Tensor& x) {
  return x.defined() ? x.data<T>() : nullptr;
}

/// Products of the tokens of a chunk with each other over the pairs that count, and of each with the
/// memory. The solve is one product over pairs.
KernelCost cost_of(const MemoryShape& shape, std::span<const MemorySegment> segments, int times,
                   std::initializer_list<Tensor> moved) {
  const bool is_delta = shape.rule == MemoryRule::delta;
  double pairs = 0.0;
  double tokens = 0.0;
  for (const MemorySegment& s : segments) {
    for (int64_t t = s.begin; t < s.end; t += shape.chunk) {
      const auto n = static_cast<double>(std::min(shape.chunk, s.end - t));
      pairs += n * (n + 1) / 2;
      tokens += n;
    }
  }
  const auto K = static_cast<double>(shape.K);
  const auto V = static_cast<double>(shape.V);
  KernelCost cost = moving(moved);
  cost.flops = 2.0 * times * static_cast<double>(shape.H) * (is_delta ? 1.0 : 0.5) *
               (pairs * 2 * (K + V) + tokens * (is_delta ? 3 : 4) * K * V);
  return cost;
}

Tensor scan(Tape& tape, MemoryRule rule, const MemoryTokens& tokens,
            const MemoryScanOptions& options) {
  const OpInfo& op = info_of(rule);
  check_tokens(op.name, tokens);
  const Tensor& q = tokens.q;
  const Tensor& k = tokens.k;
  const Tensor& v = tokens.v;
  const Tensor& log_decay = tokens.log_decay;
  const Tensor& beta = tokens.beta;
  const auto offsets = options.offsets;
  const int64_t end = offsets.empty() ? 0 : offsets.back();
  SLUICE_CHECK(ShapeError, end == q.dim(0), "{}: ranges end at token {}, q has {} tokens", op.name,
               end, q.dim(0));
  const MemoryShape shape = shape_of(rule, tokens, options.scale);
  ArenaScope scratch(thread_arena());
  const auto segments = segments_of(scratch, offsets, shape.chunk);
  bool backward_follows = false;
  for (const Tensor* input : {&q, &k, &v, &log_decay, &beta}) {
    backward_follows = backward_follows || (input->defined() && tape.requires_grad(*input));
  }
  Tensor o = tape.empty(v.shape(), v.dtype());
  Tensor written;
  Tensor states;
  if (backward_follows) {
    if (rule == MemoryRule::delta) written = tape.empty(v.shape(), v.dtype());
    // As many as any ranges may need, so that every batch of a size takes the same memory.
    states = tape.empty({q.dim(0) / shape.chunk, shape.H, shape.K, shape.V}, v.dtype());
  }
  tape.run(op, cost_of(shape, segments, 1, {q, k, v, log_decay, beta, o, written, states}), [&] {
    dispatch_float(q.dtype(), [&]<class T>() {
      kernels::gated_delta_rule<T>(
          shape, segments,
          {q.data<T>(), k.data<T>(), v.data<T>(), data_or_null<T>(log_decay), data_or_null<T>(beta),
           o.data<T>(), data_or_null<T>(written), data_or_null<T>(states)});
    });
  });
  const double flops = cost_of(shape, segments, 2, {}).flops;
  tape.record(
      op, {q, k, v, log_decay, beta}, {&o},
      {q, k, rule == MemoryRule::delta ? written : v, log_decay, beta, states},
      [shape, flops, offsets](Backward& b) {
        const Tensor grad_o = b.grad(0);
        GradTarget grads[5];
        KernelCost cost = moving({b.saved(0), b.saved(1), b.saved(2), b.saved(5), grad_o});
        cost.flops = flops;
        for (int i = 0; i < 5; ++i) {
          grads[i] = wanted_target(b, i);
          cost.bytes += moving({grads[i].tensor}).bytes;
        }
        b.run(cost, [&] {
          ArenaScope backward_scratch(thread_arena());
          const auto own = segments_of(backward_scratch, offsets, shape.chunk);
          dispatch_float(grad_o.dtype(), [&]<class T>() {
            kernels::gated_delta_rule_backward<T>(
                shape, own,
                {b.saved(0).data<T>(), b.saved(1).data<T>(), b.saved(2).data<T>(),
                 data_or_null<T>(b.saved(3)), data_or_null<T>(b.saved(4)), b.saved(5).data<T>(),
                 grad_o.data<T>(), gradient<T>(grads[0]), gradient<T>(grads[1]),
                 gradient<T>(grads[2]), gradient<T>(grads[3]), gradient<T>(grads[4])});
          });
        });
      });
  return o;
}

Tensor advance(Tape& tape, MemoryRule rule, const MemoryTokens& tokens, double scale,
               const Tensor& memory) {
  const OpInfo& op = info_of(rule);
  check_tokens(op.name, tokens);
  const MemoryShape shape = shape_of(rule, tokens, scale);
  check_same_dtype(op.name, {"q", tokens.q}, {"memory", memory});
  check_shape(op.name, "memory", memory, {shape.H, shape.K, shape.V});
  const NoGrad no_grad(tape);
  const MemorySegment segment{0, tokens.q.dim(0), 0};
  Tensor o = tape.empty(tokens.v.shape(), tokens.v.dtype());
  Tensor held = memory;
  tape.run(op,
           cost_of(shape, {&segment, 1}, 1,
                   {tokens.q, tokens.k, tokens.v, tokens.log_decay, tokens.beta, o, held}),
           [&] {
             dispatch_float(o.dtype(), [&]<class T>() {
               kernels::gated_delta_rule<T>(
                   shape, {&segment, 1},
                   {tokens.q.data<T>(), tokens.k.data<T>(), tokens.v.data<T>(),
                    data_or_null<T>(tokens.log_decay), data_or_null<T>(tokens.beta), o.data<T>(),
                    nullptr, nullptr, held.data<T>(), held.data<T>()});
             });
           });
  return o;
}

}  // namespace

Tensor gated_delta_rule(Tape& tape, const MemoryTokens& tokens, const MemoryScanOptions& options) {
  return scan(tape, MemoryRule::delta, tokens, options);
}

Tensor linear_attention_scan(Tape& tape, const MemoryTokens& tokens,
                             const MemoryScanOptions& options) {
  return scan(tape, MemoryRule::sum, tokens, options);
}

Tensor advance_gated_delta_rule(Tape& tape, const MemoryTokens& tokens, double scale,
                                const Tensor& memory) {
  return advance(tape, MemoryRule::delta, tokens, scale, memory);
}

Tensor advance_linear_attention(Tape& tape, const MemoryTokens& tokens, double scale,
                                const Tensor& memory) {
  return advance(tape, MemoryRule::sum, tokens, scale, memory);
}

}  // namespace sluice
