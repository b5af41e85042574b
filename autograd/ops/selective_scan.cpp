#include "autograd/ops/selective_scan.h"

#include <algorithm>
#include <array>

#include "autograd/kernels/selective_scan.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "selective_scan";

OpSample sample(std::string label, std::vector<Tensor> inputs, std::vector<int64_t> documents) {
  return {
      .label = std::move(label),
      .inputs = std::move(inputs),
      .differentiable = std::vector<bool>(7, true),
      .apply = [documents = std::move(documents)](
                   Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
        return {selective_scan(tape, {in[0], in[1], in[2], in[3], in[4], in[5], in[6]}, documents)};
      }};
}

std::vector<Tensor> tensors(SampleFactory& make, int64_t tokens, int64_t E, int64_t N) {
  return {make.uniform({tokens, E}), make.uniform({tokens, E}, -2.0, 1.0),
          make.uniform({E}),         make.uniform({E, N}),
          make.uniform({tokens, N}), make.uniform({tokens, N}),
          make.uniform({E})};
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {sample("one document", tensors(make, 7, 3, 4), {0, 7}),
          sample("packed documents", tensors(make, 14, 2, 3), {0, 1, 6, 6, 14}),
          sample("several segments", tensors(make, 140, 2, 2), {0, 5, 140}),
          sample("several registers", tensors(make, 5, 19, 2), {0, 5}),
          sample("no token", tensors(make, 0, 3, 4), {0})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  const auto changed = [&](size_t input, const Shape& shape) {
    std::vector<Tensor> result = tensors(make, 7, 3, 4);
    result[input] = make.uniform(shape);
    return result;
  };
  return {sample("dt of other channels", changed(1, {7, 2}), {0, 7}),
          sample("short bias", changed(2, {2}), {0, 7}),
          sample("A_log of other channels", changed(3, {2, 4}), {0, 7}),
          sample("B of another size", changed(4, {7, 3}), {0, 7}),
          sample("C of other tokens", changed(5, {6, 4}), {0, 7}),
          sample("long D", changed(6, {4}), {0, 7}),
          sample("documents end early", tensors(make, 7, 3, 4), {0, 6})};
}

kernels::SelectiveShape check(std::string_view op, const SelectiveScanInputs& in) {
  check_rank(op, "u", in.u, 2, "[T, E]");
  check_alike(op, {"u", in.u}, {"dt", in.dt});
  check_rank(op, "A_log", in.A_log, 2, "[E, N]");
  const int64_t tokens = in.u.dim(0);
  const int64_t E = in.u.dim(1);
  const int64_t N = in.A_log.dim(1);
  const auto expect = [&](std::string_view name, const Tensor& x, const Shape& shape) {
    check_same_dtype(op, {"u", in.u}, {name, x});
    check_shape(op, name, x, shape);
  };
  expect("dt_bias", in.dt_bias, {E});
  expect("A_log", in.A_log, {E, N});
  expect("B", in.B, {tokens, N});
  expect("C", in.C, {tokens, N});
  expect("D", in.D, {E});
  return {E, N};
}

template <class T>
kernels::SelectiveInputs<T> view(const SelectiveScanInputs& in) {
  return {in.u.data<T>(), in.dt.data<T>(), in.dt_bias.data<T>(), in.A_log.data<T>(),
          in.B.data<T>(), in.C.data<T>(),  in.D.data<T>()};
}

/// A multiply-add each for the state and for the output; the backward has twice as many.
KernelCost cost_of(const kernels::SelectiveShape& shape, int64_t tokens, int passes,
                   std::initializer_list<Tensor> moved) {
  KernelCost cost = moving(moved);
  cost.flops = 4.0 * passes * static_cast<double>(tokens * shape.E * shape.N);
  return cost;
}

}  // namespace

const OpInfo& selective_scan_info() {
  static constexpr OpInfo kInfo{
      kOp, "h_t = e^(-d_t e^A_log) h_(t-1) + d_t B_t u_t, y_t = C_t h_t + D u_t, d = softplus(dt)",
      samples, misuses};
  return kInfo;
}

Tensor selective_scan(Tape& tape, const SelectiveScanInputs& in,
                      std::span<const int64_t> documents) {
  const auto shape = check(kOp, in);
  const int64_t tokens = in.u.dim(0);
  const int64_t end = documents.empty() ? 0 : documents.back();
  SLUICE_CHECK(ShapeError, end == tokens, "{}: documents end at token {}, u has {} tokens", kOp,
               end, tokens);
  const DType dtype = in.u.dtype();
  Tensor y = tape.empty(in.u.shape(), dtype);
  const std::array inputs{in.u, in.dt, in.dt_bias, in.A_log, in.B, in.C, in.D};
  const bool backward_follows =
      std::ranges::any_of(inputs, [&](const Tensor& each) { return tape.requires_grad(each); });
  Tensor states;
  if (backward_follows) {
    states = tape.empty({kernels::selective_states(documents), shape.N, shape.E}, dtype);
  }
  tape.run(selective_scan_info(), cost_of(shape, tokens, 1, {in.u, in.dt, y, states}), [&] {
    dispatch_float(dtype, [&]<class T>() {
      kernels::selective_scan<T>(shape, documents,
                                 {.in = view<T>(in),
                                  .y = y.data<T>(),
                                  .states = states.defined() ? states.data<T>() : nullptr});
    });
  });
  tape.record(selective_scan_info(), {in.u, in.dt, in.dt_bias, in.A_log, in.B, in.C, in.D}, {&y},
              {in.u, in.dt, in.dt_bias, in.A_log, in.B, in.C, in.D, states},
              [shape, documents](Backward& b) {
                const Tensor grad_y = b.grad(0);
                const int64_t rows = grad_y.dim(0);
                std::array<GradTarget, 7> grads;
                for (int i = 0; i < 7; ++i) grads[static_cast<size_t>(i)] = wanted_target(b, i);
                const int64_t size = dispatch_float(grad_y.dtype(), [&]<class T>() {
                  return kernels::selective_workspace<T>(shape, rows);
                });
                Tensor workspace = b.empty({size}, grad_y.dtype());
                const KernelCost cost = cost_of(
                    shape, rows, 2,
                    {b.saved(0), b.saved(1), grad_y, grads[0].tensor, grads[1].tensor, workspace});
                b.run(cost, [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    kernels::selective_scan_backward<T>(
                        shape, documents,
                        {.in = view<T>({b.saved(0), b.saved(1), b.saved(2), b.saved(3), b.saved(4),
                                        b.saved(5), b.saved(6)}),
                         .states = b.saved(7).data<T>(),
                         .workspace = workspace.data<T>(),
                         .grad_y = grad_y.data<T>(),
                         .grad_u = gradient<T>(grads[0]),
                         .grad_dt = gradient<T>(grads[1]),
                         .grad_dt_bias = gradient<T>(grads[2]),
                         .grad_A_log = gradient<T>(grads[3]),
                         .grad_B = gradient<T>(grads[4]),
                         .grad_C = gradient<T>(grads[5]),
                         .grad_D = gradient<T>(grads[6])});
                  });
                });
              });
  return y;
}

Tensor selective_scan_step(Tape& tape, const SelectiveScanInputs& in, Tensor& state) {
  constexpr std::string_view kStep = "selective_scan_step";
  const auto shape = check(kStep, in);
  check_same_dtype(kStep, {"u", in.u}, {"state", state});
  check_shape(kStep, "state", state, {shape.N, shape.E});
  const NoGrad no_grad(tape);
  const int64_t tokens = in.u.dim(0);
  Tensor y = tape.empty(in.u.shape(), in.u.dtype());
  tape.run(selective_scan_info(), cost_of(shape, tokens, 1, {in.u, in.dt, y, state, state}), [&] {
    dispatch_float(in.u.dtype(), [&]<class T>() {
      const std::array<int64_t, 2> documents{0, tokens};
      kernels::selective_scan<T>(shape, documents,
                                 {.in = view<T>(in),
                                  .y = y.data<T>(),
                                  .states = nullptr,
                                  .initial = state.data<T>(),
                                  .last = state.data<T>()});
    });
  });
  return y;
}

}  // namespace sluice
