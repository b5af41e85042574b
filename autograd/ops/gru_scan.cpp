#include "autograd/ops/gru_scan.h"

#include <algorithm>

#include "autograd/kernels/gru_scan.h"
#include "autograd/ops/common.h"
#include "autograd/support/arena.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "gru_scan";

OpSample sample(std::string label, std::vector<Tensor> inputs, std::vector<int64_t> segments) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = {true, true, true, false},
          .apply = [segments = std::move(segments)](
                       Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {gru_scan(tape, {in[0], in[1], in[2], in[3]}, segments)};
          }};
}

std::vector<Tensor> tensors(SampleFactory& make, int64_t P, const std::vector<int32_t>& offsets) {
  const auto E = static_cast<int64_t>(offsets.size()) - 1;
  return {make.uniform({offsets.back(), 3 * P}), make.uniform({E, 3 * P, P}),
          make.uniform({E, 4 * P}), make.integers({E + 1}, offsets)};
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {sample("one segment", tensors(make, 3, {0, 6}), {0, 6}),
          sample("experts and segments", tensors(make, 2, {0, 5, 5, 9}), {0, 1, 5, 8, 9}),
          sample("empty segments", tensors(make, 2, {0, 3, 4}), {0, 0, 3, 3, 4, 4}),
          sample("several registers", tensors(make, 19, {0, 4}), {0, 3, 4}),
          sample("no row", tensors(make, 3, {0, 0}), {0})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  const auto changed = [&](size_t input, const Tensor& other) {
    std::vector<Tensor> result = tensors(make, 2, {0, 3, 4});
    result[input] = other;
    return result;
  };
  return {sample("a of two gates", changed(0, make.uniform({4, 4})), {0, 3, 4}),
          sample("weight of another state", changed(1, make.uniform({2, 6, 3})), {0, 3, 4}),
          sample("three biases", changed(2, make.uniform({2, 6})), {0, 3, 4}),
          sample("offsets of one expert", changed(3, make.integers({2}, {0, 4})), {0, 3, 4}),
          sample("a segment across experts", tensors(make, 2, {0, 3, 4}), {0, 2, 4}),
          sample("segments end early", tensors(make, 2, {0, 3, 4}), {0, 3})};
}

kernels::GruShape check(std::string_view op, const GruTensors& in) {
  check_rank(op, "a", in.a, 2, "[R, 3 P]");
  check_rank(op, "weight", in.weight, 3, "[E, 3 P, P]");
  const int64_t E = in.weight.dim(0);
  const int64_t P = in.weight.dim(2);
  check_same_dtype(op, {"a", in.a}, {"weight", in.weight});
  check_same_dtype(op, {"a", in.a}, {"bias", in.bias});
  check_shape(op, "weight", in.weight, {E, 3 * P, P});
  check_shape(op, "a", in.a, {in.a.dim(0), 3 * P});
  check_shape(op, "bias", in.bias, {E, 4 * P});
  check_expert_offsets(op, in.offsets, E, in.a.dim(0));
  return {E, P};
}

void check_segments(const GruTensors& in, std::span<const int64_t> segments) {
  const int64_t rows = in.a.dim(0);
  const int64_t end = segments.empty() ? 0 : segments.back();
  SLUICE_CHECK(ShapeError, end == rows, "{}: segments end at row {}, a has {} rows", kOp, end,
               rows);
  if (!in.offsets.has_memory()) return;
  for (const int32_t offset : in.offsets.span<int32_t>()) {
    SLUICE_CHECK(
        ShapeError, offset == 0 || std::binary_search(segments.begin(), segments.end(), offset),
        "{}: a segment goes on past row {}, where another expert's rows begin", kOp, offset);
  }
}

/// A multiply-add per weight and row; the backward has twice as many.
KernelCost cost_of(const kernels::GruShape& s, int64_t rows, int passes,
                   std::initializer_list<Tensor> moved) {
  KernelCost cost = moving(moved);
  cost.flops = 2.0 * passes * static_cast<double>(rows * 3 * s.P * s.P);
  return cost;
}

template <class T>
kernels::GruInputs<T> view(const GruTensors& in) {
  return {in.a.data<T>(), in.weight.data<T>(), in.bias.data<T>(), in.offsets.data<int32_t>()};
}

}  // namespace

const OpInfo& gru_scan_info() {
  static constexpr OpInfo kInfo{
      kOp,
      "h' = (1 - u) c + u h, c = tanh(a_c + b_c + r (Wc h + b_h)), r, u = sigmoid(a + b + W h)",
      samples, misuses};
  return kInfo;
}

Tensor gru_scan(Tape& tape, const GruTensors& in, std::span<const int64_t> segments) {
  const auto shape = check(kOp, in);
  check_segments(in, segments);
  const int64_t rows = in.a.dim(0);
  const DType dtype = in.a.dtype();
  Tensor h = tape.empty({rows, shape.P}, dtype);
  Tensor gates;
  if (tape.requires_grad(in.a) || tape.requires_grad(in.weight) || tape.requires_grad(in.bias)) {
    gates = tape.empty({rows, 4 * shape.P}, dtype);
  }
  tape.run(gru_scan_info(), cost_of(shape, rows, 1, {in.a, in.weight, h, gates}), [&] {
    dispatch_float(dtype, [&]<class T>() {
      kernels::gru_scan<T>(shape, segments,
                           {.in = view<T>(in),
                            .h = h.data<T>(),
                            .gates = gates.defined() ? gates.data<T>() : nullptr});
    });
  });
  tape.record(gru_scan_info(), {in.a, in.weight, in.bias}, {&h},
              {in.a, in.weight, in.bias, in.offsets, h, gates}, [shape, segments](Backward& b) {
                const Tensor grad_h = b.grad(0);
                const int64_t rows_ = grad_h.dim(0);
                GradTarget grad_a = wanted_target(b, 0);
                GradTarget grad_weight = wanted_target(b, 1);
                GradTarget grad_bias = wanted_target(b, 2);
                Tensor workspace = b.empty({kernels::gru_workspace(shape, rows_)}, grad_h.dtype());
                const KernelCost cost = cost_of(shape, rows_, 2,
                                                {b.saved(1), b.saved(4), b.saved(5), grad_h,
                                                 grad_a.tensor, grad_weight.tensor, workspace});
                b.run(cost, [&] {
                  dispatch_float(grad_h.dtype(), [&]<class T>() {
                    kernels::gru_scan_backward<T>(
                        shape, segments,
                        {.in = view<T>({b.saved(0), b.saved(1), b.saved(2), b.saved(3)}),
                         .h = b.saved(4).data<T>(),
                         .gates = b.saved(5).data<T>(),
                         .workspace = workspace.data<T>(),
                         .grad_h = grad_h.data<T>(),
                         .grad_a = gradient<T>(grad_a),
                         .grad_weight = gradient<T>(grad_weight),
                         .grad_bias = gradient<T>(grad_bias)});
                  });
                });
              });
  return h;
}

Tensor gru_step(Tape& tape, const GruTensors& in, Tensor& state) {
  constexpr std::string_view kStep = "gru_step";
  const auto shape = check(kStep, in);
  check_same_dtype(kStep, {"a", in.a}, {"state", state});
  check_shape(kStep, "state", state, {shape.E, shape.P});
  const NoGrad no_grad(tape);
  const int64_t rows = in.a.dim(0);
  Tensor h = tape.empty({rows, shape.P}, in.a.dtype());
  tape.run(gru_scan_info(), cost_of(shape, rows, 1, {in.a, in.weight, h, state}), [&] {
    ArenaScope scratch(thread_arena());
    int64_t* segments = scratch.allocate<int64_t>(shape.E + 1);
    std::ranges::copy(in.offsets.span<int32_t>(), segments);
    dispatch_float(in.a.dtype(), [&]<class T>() {
      kernels::gru_scan<T>(shape, {segments, static_cast<size_t>(shape.E + 1)},
                           {.in = view<T>(in),
                            .h = h.data<T>(),
                            .gates = nullptr,
                            .initial = state.data<T>(),
                            .last = state.data<T>()});
    });
  });
  return h;
}

}  // namespace sluice
