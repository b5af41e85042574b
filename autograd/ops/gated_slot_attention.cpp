#include "autograd/ops/gated_slot_attention.h"

#include <vector>

#include "autograd/kernels/gated_slot_attention.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

using kernels::GatedSlotSequence;
using kernels::GatedSlotShape;

constexpr std::string_view kOp = "gated_slot_attention";

struct SampleShape {
  Shape q;
  Shape k;
  Shape v;
  Shape gate;
};

OpSample sample(std::string label, SampleFactory& make, const SampleShape& s,
                std::vector<int64_t> offsets) {
  return {.label = std::move(label),
          .inputs = {make.uniform(s.q), make.uniform(s.k), make.uniform(s.v),
                     make.uniform(s.gate, -1.0, -0.05)},
          .differentiable = {true, true, true, true},
          .apply = [offsets = std::move(offsets)](
                       Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {gated_slot_attention(tape, {in[0], in[1], in[2], in[3]}, offsets, 0.8)};
          }};
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {sample("one range", make, {{7, 2, 4}, {7, 2, 4}, {7, 2, 3}, {7, 2, 5}}, {0, 7}),
          sample("packed", make, {{9, 1, 3}, {9, 1, 3}, {9, 1, 5}, {9, 1, 2}}, {0, 1, 4, 4, 9}),
          sample("several segments", make, {{75, 1, 2}, {75, 1, 2}, {75, 1, 2}, {75, 1, 2}},
                 {0, 9, 75}),
          sample("one slot", make, {{5, 2, 2}, {5, 2, 2}, {5, 2, 2}, {5, 2, 1}}, {0, 5}),
          sample("no token", make, {{0, 2, 4}, {0, 2, 4}, {0, 2, 4}, {0, 2, 3}}, {0})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  return {
      sample("widths differ", make, {{7, 2, 4}, {7, 2, 5}, {7, 2, 3}, {7, 2, 2}}, {0, 7}),
      sample("heads differ", make, {{7, 2, 4}, {7, 2, 4}, {7, 1, 3}, {7, 2, 2}}, {0, 7}),
      sample("gates of other heads", make, {{7, 2, 4}, {7, 2, 4}, {7, 2, 3}, {7, 1, 2}}, {0, 7}),
      sample("ranges end early", make, {{7, 2, 4}, {7, 2, 4}, {7, 2, 3}, {7, 2, 2}}, {0, 6}),
      sample("two dimensions", make, {{7, 8}, {7, 8}, {7, 8}, {7, 2}}, {0, 7})};
}

}  // namespace

const OpInfo& gated_slot_attention_info() {
  static constexpr OpInfo kInfo{
      kOp,
      "o[n, h] = V_n^T softmax(scale K_n q[n, h]), K_n = a K_{n-1} + (1 - a) (x) k[n, h], V_n = a "
      "V_{n-1} + (1 - a) (x) v[n, h], a = e^log_gate[n, h]",
      samples, misuses};
  return kInfo;
}

namespace {

GatedSlotShape shape_of(const GatedSlotTokens& t, double scale) {
  check_rank(kOp, "q", t.q, 3, "[N, H, P]");
  check_alike(kOp, {"q", t.q}, {"k", t.k});
  for (const Operand& other : {Operand{"v", t.v}, Operand{"log_gate", t.log_gate}}) {
    check_rank(kOp, other.name, other.tensor, 3, "[N, H, width]");
    check_same_dtype(kOp, {"q", t.q}, other);
    check_shape(kOp, other.name, other.tensor, {t.q.dim(0), t.q.dim(1), other.tensor.dim(2)});
  }
  return {t.q.dim(1), t.log_gate.dim(2), t.q.dim(2), t.v.dim(2), scale};
}

/// The ranges, with where the saved memories of each begin.
std::span<const GatedSlotSequence> sequences_of(ArenaScope& scratch,
                                                std::span<const int64_t> offsets) {
  const size_t ranges = offsets.empty() ? 0 : offsets.size() - 1;
  auto* list = scratch.allocate<GatedSlotSequence>(static_cast<int64_t>(ranges));
  int64_t states = 0;
  for (size_t i = 0; i < ranges; ++i) {
    list[i] = {offsets[i], offsets[i + 1], states};
    states += kernels::saved_slot_memories(offsets[i + 1] - offsets[i]);
  }
  return {list, ranges};
}

/// A token changes every slot and is multiplied by every slot.
double flops_of(const GatedSlotShape& s, int64_t tokens, int times) {
  return 4.0 * times * static_cast<double>(tokens * s.H * s.memory());
}

}  // namespace

Tensor gated_slot_attention(Tape& tape, const GatedSlotTokens& tokens,
                            std::span<const int64_t> offsets, double scale) {
  const OpInfo& op = gated_slot_attention_info();
  const GatedSlotShape shape = shape_of(tokens, scale);
  const auto& [q, k, v, log_gate] = tokens;
  const int64_t n = q.dim(0);
  const int64_t end = offsets.empty() ? 0 : offsets.back();
  SLUICE_CHECK(ShapeError, end == n, "{}: ranges end at token {}, q has {} tokens", kOp, end, n);
  const bool backward_follows = tape.requires_grad(q) || tape.requires_grad(k) ||
                                tape.requires_grad(v) || tape.requires_grad(log_gate);
  Tensor o = tape.empty(v.shape(), v.dtype());
  Tensor states;
  if (backward_follows) {
    // As many as any ranges may need, so that every batch of a size takes the same memory.
    states =
        tape.empty({n / kernels::kSlotSegment, shape.H, shape.M, shape.P + shape.V}, v.dtype());
  }
  KernelCost cost = moving({q, k, v, log_gate, o, states});
  cost.flops = flops_of(shape, n, 1);
  tape.run(op, cost, [&] {
    ArenaScope scratch(thread_arena());
    const auto sequences = sequences_of(scratch, offsets);
    dispatch_float(q.dtype(), [&]<class T>() {
      kernels::gated_slot_attention<T>(
          shape, sequences,
          {q.data<T>(), k.data<T>(), v.data<T>(), log_gate.data<T>(), o.data<T>(),
           states.defined() ? states.data<T>() : nullptr});
    });
  });
  tape.record(op, {q, k, v, log_gate}, {&o}, {q, k, v, log_gate, states},
              [shape, offsets](Backward& b) {
                const Tensor grad_o = b.grad(0);
                GradTarget grads[4];
                KernelCost backward_cost =
                    moving({b.saved(0), b.saved(1), b.saved(2), b.saved(3), b.saved(4), grad_o});
                for (int i = 0; i < 4; ++i) {
                  grads[i] = wanted_target(b, i);
                  backward_cost.bytes += moving({grads[i].tensor}).bytes;
                }
                // The memories, computed again, are no useful work.
                backward_cost.flops = flops_of(shape, grad_o.dim(0), 2);
                b.run(backward_cost, [&] {
                  ArenaScope scratch(thread_arena());
                  const auto sequences = sequences_of(scratch, offsets);
                  dispatch_float(grad_o.dtype(), [&]<class T>() {
                    kernels::gated_slot_attention_backward<T>(
                        shape, sequences,
                        {b.saved(0).data<T>(), b.saved(1).data<T>(), b.saved(2).data<T>(),
                         b.saved(3).data<T>(), b.saved(4).data<T>(), grad_o.data<T>(),
                         gradient<T>(grads[0]), gradient<T>(grads[1]), gradient<T>(grads[2]),
                         gradient<T>(grads[3])});
                  });
                });
              });
  return o;
}

Tensor advance_gated_slot_attention(Tape& tape, const GatedSlotTokens& tokens, double scale,
                                    const Tensor& memory) {
  const GatedSlotShape shape = shape_of(tokens, scale);
  check_same_dtype(kOp, {"q", tokens.q}, {"memory", memory});
  check_shape(kOp, "memory", memory, {shape.H, shape.M, shape.P + shape.V});
  const NoGrad no_grad(tape);
  const int64_t n = tokens.q.dim(0);
  const GatedSlotSequence sequence{0, n, 0};
  Tensor o = tape.empty(tokens.v.shape(), tokens.v.dtype());
  Tensor held = memory;
  KernelCost cost = moving({tokens.q, tokens.k, tokens.v, tokens.log_gate, o, held});
  cost.flops = flops_of(shape, n, 1);
  tape.run(gated_slot_attention_info(), cost, [&] {
    dispatch_float(o.dtype(), [&]<class T>() {
      kernels::gated_slot_attention<T>(
          shape, {&sequence, 1},
          {tokens.q.data<T>(), tokens.k.data<T>(), tokens.v.data<T>(), tokens.log_gate.data<T>(),
           o.data<T>(), nullptr, held.data<T>()});
    });
  });
  return o;
}

}  // namespace sluice
