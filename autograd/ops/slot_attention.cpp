#include "autograd/ops/slot_attention.h"

#include <vector>

#include "autograd/kernels/slot_attention.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

using kernels::SlotBackward;
using kernels::SlotForward;
using kernels::SlotRange;
using kernels::SlotShape;

using SlotOp = Tensor (*)(Tape&, const Tensor&, const Tensor&, const Tensor&, const SlotOptions&);

template <SlotOp op>
OpSample sample(std::string label, SampleFactory& make, const std::vector<Shape>& shapes,
                std::vector<int64_t> ranges) {
  return {.label = std::move(label),
          .inputs = {make.uniform(shapes[0]), make.uniform(shapes[1]), make.uniform(shapes[2])},
          .differentiable = {true, true, true},
          .apply = [ranges = std::move(ranges)](Tape& tape,
                                                std::span<const Tensor> in) -> std::vector<Tensor> {
            return {op(tape, in[0], in[1], in[2], {ranges, 0.7})};
          }};
}

std::vector<OpSample> read_samples(SampleFactory& make) {
  const auto of = [&](std::string label, const std::vector<Shape>& shapes,
                      std::vector<int64_t> ranges) {
    return sample<read_slots>(std::move(label), make, shapes, std::move(ranges));
  };
  return {of("one set", {{7, 2, 4}, {1, 3, 2, 4}, {1, 3, 2, 5}}, {0, 7}),
          of("sets out of order", {{9, 1, 3}, {3, 2, 1, 3}, {3, 2, 1, 2}}, {4, 9, 0, 1, 1, 4}),
          of("an empty set, tokens of none", {{6, 2, 2}, {2, 4, 2, 2}, {2, 4, 2, 2}}, {1, 1, 2, 5}),
          of("one slot", {{5, 1, 2}, {1, 1, 1, 2}, {1, 1, 1, 3}}, {0, 5}),
          of("no token", {{0, 2, 4}, {0, 3, 2, 4}, {0, 3, 2, 4}}, {})};
}

std::vector<OpSample> read_misuses(SampleFactory& make) {
  const auto of = [&](std::string label, const std::vector<Shape>& shapes,
                      std::vector<int64_t> ranges) {
    return sample<read_slots>(std::move(label), make, shapes, std::move(ranges));
  };
  return {of("widths differ", {{7, 2, 4}, {1, 3, 2, 5}, {1, 3, 2, 5}}, {0, 7}),
          of("heads differ", {{7, 2, 4}, {1, 3, 1, 4}, {1, 3, 1, 4}}, {0, 7}),
          of("fewer values", {{7, 2, 4}, {1, 3, 2, 4}, {1, 2, 2, 4}}, {0, 7}),
          of("fewer ranges", {{7, 2, 4}, {2, 3, 2, 4}, {2, 3, 2, 4}}, {0, 7}),
          of("past the end", {{7, 2, 4}, {1, 3, 2, 4}, {1, 3, 2, 4}}, {0, 8}),
          of("three dimensions", {{7, 2, 4}, {3, 2, 4}, {3, 2, 4}}, {0, 7})};
}

std::vector<OpSample> write_samples(SampleFactory& make) {
  const auto of = [&](std::string label, const std::vector<Shape>& shapes,
                      std::vector<int64_t> ranges) {
    return sample<write_slots>(std::move(label), make, shapes, std::move(ranges));
  };
  return {of("one set", {{1, 3, 2, 4}, {7, 2, 4}, {7, 2, 5}}, {0, 7}),
          of("sets out of order", {{3, 2, 1, 3}, {9, 1, 3}, {9, 1, 2}}, {4, 9, 0, 1, 1, 4}),
          of("an empty set, tokens of none", {{2, 4, 2, 2}, {6, 2, 2}, {6, 2, 2}}, {1, 1, 2, 5}),
          of("one slot", {{1, 1, 1, 2}, {5, 1, 2}, {5, 1, 3}}, {0, 5}),
          of("no token", {{0, 3, 2, 4}, {0, 2, 4}, {0, 2, 4}}, {})};
}

std::vector<OpSample> write_misuses(SampleFactory& make) {
  const auto of = [&](std::string label, const std::vector<Shape>& shapes,
                      std::vector<int64_t> ranges) {
    return sample<write_slots>(std::move(label), make, shapes, std::move(ranges));
  };
  return {of("widths differ", {{1, 3, 2, 5}, {7, 2, 4}, {7, 2, 4}}, {0, 7}),
          of("fewer values", {{1, 3, 2, 4}, {7, 2, 4}, {6, 2, 4}}, {0, 7}),
          of("a range that ends before it begins", {{1, 3, 2, 4}, {7, 2, 4}, {7, 2, 4}}, {3, 2}),
          of("two dimensions", {{3, 4}, {7, 4}, {7, 4}}, {0, 7})};
}

}  // namespace

const OpInfo& read_slots_info() {
  static constexpr OpInfo kInfo{"read_slots",
                                "o[t, h] = sum_s softmax_s(scale q[t, h] . k[g, s, h]) v[g, s, h]",
                                read_samples, read_misuses};
  return kInfo;
}

const OpInfo& write_slots_info() {
  static constexpr OpInfo kInfo{
      "write_slots",
      "u[g, s, h] = sum_t A[t, s] v[t, h] / sum_t A[t, s], A[t] = softmax_s(scale q[g, s, h] . "
      "k[t, h])",
      write_samples, write_misuses};
  return kInfo;
}

namespace {

/// The operands by what they belong to; `v` is the slots' where tokens read, else the tokens'.
struct Operands {
  const Tensor& token;  // [N, H, P]
  const Tensor& slot;   // [G, S, H, P]
  const Tensor& v;
  bool tokens_read;
};

void check_slots(std::string_view op, const Operands& in, std::span<const int64_t> ranges) {
  check_rank(op, in.tokens_read ? "q" : "k", in.token, 3, "[N, H, P]");
  check_rank(op, in.tokens_read ? "k" : "q", in.slot, 4, "[G, S, H, P]");
  check_same_dtype(op, {"q", in.token}, {"k", in.slot});
  check_same_dtype(op, {"q", in.token}, {"v", in.v});
  SLUICE_CHECK(ShapeError, in.token.dim(1) == in.slot.dim(2) && in.token.dim(2) == in.slot.dim(3),
               "{}: tokens are {} but slots {}; heads or widths differ", op, in.token.shape(),
               in.slot.shape());
  const Tensor& owner = in.tokens_read ? in.slot : in.token;
  check_rank(op, "v", in.v, owner.rank(), in.tokens_read ? "[G, S, H, V]" : "[N, H, V]");
  check_shape(op, "v", in.v, owner.shape().resized(owner.rank() - 1, in.v.dim(owner.rank() - 1)));
  SLUICE_CHECK(ShapeError, std::ssize(ranges) == 2 * in.slot.dim(0),
               "{}: {} numbers give ranges for {} sets of slots; expected two for each", op,
               ranges.size(), in.slot.dim(0));
  for (size_t i = 0; i < ranges.size(); i += 2) {
    SLUICE_CHECK(ShapeError,
                 0 <= ranges[i] && ranges[i] <= ranges[i + 1] && ranges[i + 1] <= in.token.dim(0),
                 "{}: range {} to {}, allowed what lies in 0 to {} (tokens)", op, ranges[i],
                 ranges[i + 1], in.token.dim(0));
  }
}

std::span<const SlotRange> as_ranges(ArenaScope& scratch, std::span<const int64_t> ranges) {
  const size_t sets = ranges.size() / 2;
  auto* list = scratch.allocate<SlotRange>(static_cast<int64_t>(sets));
  for (size_t g = 0; g < sets; ++g) list[g] = {ranges[2 * g], ranges[2 * g + 1]};
  return {list, sets};
}

/// Products of every token with the slots of its set, with keys and with values.
double flops_of(const SlotShape& s, std::span<const int64_t> ranges, int times) {
  int64_t tokens = 0;
  for (size_t i = 0; i < ranges.size(); i += 2) tokens += ranges[i + 1] - ranges[i];
  return 2.0 * times * static_cast<double>(tokens * s.S * s.H * (s.P + s.V));
}

template <SlotOp op>
Tensor attend(Tape& tape, const OpInfo& info, const std::array<Tensor, 3>& inputs,
              const SlotOptions& options) {
  constexpr bool kReads = op == read_slots;
  const Operands in{inputs[kReads ? 0 : 1], inputs[kReads ? 1 : 0], inputs[2], kReads};
  check_slots(info.name, in, options.ranges);
  const int64_t V = in.v.dim(in.v.rank() - 1);
  const SlotShape shape{in.slot.dim(1), in.token.dim(1), in.token.dim(2), V, options.scale};
  const auto ranges = options.ranges;
  const Shape result = kReads ? in.token.shape().resized(2, V) : in.slot.shape().resized(3, V);
  // Tokens of no set read nothing.
  Tensor out = kReads ? tape.zeros(result, in.v.dtype()) : tape.empty(result, in.v.dtype());
  KernelCost cost = moving({inputs[0], inputs[1], inputs[2], out});
  cost.flops = flops_of(shape, ranges, 1);
  tape.run(info, cost, [&] {
    ArenaScope scratch(thread_arena());
    const auto sets = as_ranges(scratch, ranges);
    dispatch_float(out.dtype(), [&]<class T>() {
      const SlotForward<T> args{in.token.data<T>(), in.slot.data<T>(), in.v.data<T>(),
                                out.data<T>()};
      if constexpr (kReads) {
        kernels::read_slots<T>(shape, sets, args);
      } else {
        kernels::write_slots<T>(shape, sets, args);
      }
    });
  });
  tape.record(
      info, {inputs[0], inputs[1], inputs[2]}, {&out},
      {inputs[0], inputs[1], inputs[2], kReads ? Tensor() : out}, [shape, ranges](Backward& b) {
        const Tensor grad_out = b.grad(0);
        GradTarget grads[3] = {wanted_target(b, 0), wanted_target(b, 1), wanted_target(b, 2)};
        KernelCost backward_cost =
            moving({grad_out, grads[0].tensor, grads[1].tensor, grads[2].tensor});
        // Two products for each of the forward's; the weights, computed again, are no useful work.
        backward_cost.flops = flops_of(shape, ranges, 2);
        b.run(backward_cost, [&] {
          ArenaScope scratch(thread_arena());
          const auto sets = as_ranges(scratch, ranges);
          dispatch_float(grad_out.dtype(), [&]<class T>() {
            T* grad[3];
            for (int i = 0; i < 3; ++i) {
              const kernels::Gradient<T> target = gradient<T>(grads[i]);
              if (target) kernels::zero_unless_accumulating(target, grads[i].tensor.numel());
              grad[i] = target.data;
            }
            constexpr int kToken = kReads ? 0 : 1;
            const SlotBackward<T> args{
                b.saved(kToken).data<T>(), b.saved(1 - kToken).data<T>(),
                b.saved(2).data<T>(),      kReads ? nullptr : b.saved(3).data<T>(),
                grad_out.data<T>(),        grad[kToken],
                grad[1 - kToken],          grad[2]};
            if constexpr (kReads) {
              kernels::read_slots_backward<T>(shape, sets, args);
            } else {
              kernels::write_slots_backward<T>(shape, sets, args);
            }
          });
        });
      });
  return out;
}

}  // namespace

Tensor read_slots(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                  const SlotOptions& options) {
  return attend<read_slots>(tape, read_slots_info(), {q, k, v}, options);
}

Tensor write_slots(Tape& tape, const Tensor& q, const Tensor& k, const Tensor& v,
                   const SlotOptions& options) {
  return attend<write_slots>(tape, write_slots_info(), {q, k, v}, options);
}

}  // namespace sluice
