#include "autograd/ops/factored_mix.h"

#include "autograd/kernels/factored_mix.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "factored_mix";

OpSample sample(std::string label, std::vector<Tensor> inputs) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = {true, true, true},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {factored_mix(tape, in[0], in[1], in[2])};
          }};
}

kernels::MixShape check(const Tensor& from, const Tensor& to, const Tensor& a) {
  check_rank(kOp, "from", from, 3, "[N, H, n]");
  check_alike(kOp, {"from", from}, {"to", to});
  check_same_dtype(kOp, {"from", from}, {"a", a});
  check_rank(kOp, "a", a, 3, "[N, n, m]");
  const kernels::MixShape shape{from.dim(0), from.dim(1), from.dim(2), a.dim(2)};
  check_shape(kOp, "a", a, {shape.N, shape.n, shape.m});
  return shape;
}

/// As if no weight were 0: how many are is not known beforehand. `passes` over from, and over to.
KernelCost cost_of(const kernels::MixShape& s, int passes, std::initializer_list<Tensor> moved) {
  KernelCost cost = moving(moved);
  cost.flops = 2.0 * passes * static_cast<double>(s.N * s.H * s.n * s.m);
  return cost;
}

template <class T>
kernels::MixInputs<T> view(const Tensor& from, const Tensor& to, const Tensor& a) {
  return {from.data<T>(), to.data<T>(), a.data<T>()};
}

}  // namespace

const OpInfo& factored_mix_info() {
  static constexpr OpInfo kInfo{
      kOp, "z[t, j] = sum_h to[t, h, j] sum_i from[t, h, i] a[t, i]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("two heads",
                       {make.uniform({3, 2, 4}), make.uniform({3, 2, 4}), make.uniform({3, 4, 5})}),
                sample("weights of 0",
                       {make.values({1, 1, 3}, {0.0, 0.5, 0.0}),
                        make.values({1, 1, 3}, {0.25, 0.0, 0.75}), make.uniform({1, 3, 2})}),
                sample("no token", {make.uniform({0, 2, 4}), make.uniform({0, 2, 4}),
                                    make.uniform({0, 4, 5})})};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("other heads",
                       {make.uniform({3, 2, 4}), make.uniform({3, 1, 4}), make.uniform({3, 4, 5})}),
                sample("a of another axis",
                       {make.uniform({3, 2, 4}), make.uniform({3, 2, 4}), make.uniform({3, 5, 4})}),
                sample("flat weights",
                       {make.uniform({3, 8}), make.uniform({3, 8}), make.uniform({3, 4, 5})})};
      }};
  return kInfo;
}

Tensor factored_mix(Tape& tape, const Tensor& from, const Tensor& to, const Tensor& a) {
  const auto shape = check(from, to, a);
  Tensor z = tape.empty(a.shape(), a.dtype());
  tape.run(factored_mix_info(), cost_of(shape, 2, {from, to, a, z}), [&] {
    dispatch_float(a.dtype(), [&]<class T>() {
      kernels::factored_mix<T>(shape, view<T>(from, to, a), z.data<T>());
    });
  });
  tape.record(factored_mix_info(), {from, to, a}, {&z}, {from, to, a}, [shape](Backward& b) {
    const Tensor grad_z = b.grad(0);
    GradTarget grad_from = wanted_target(b, 0);
    GradTarget grad_to = wanted_target(b, 1);
    GradTarget grad_a = wanted_target(b, 2);
    const KernelCost cost = cost_of(shape, 5,
                                    {b.saved(0), b.saved(1), b.saved(2), grad_z, grad_from.tensor,
                                     grad_to.tensor, grad_a.tensor});
    b.run(cost, [&] {
      dispatch_float(grad_z.dtype(), [&]<class T>() {
        kernels::factored_mix_backward<T>(
            shape, {view<T>(b.saved(0), b.saved(1), b.saved(2)), grad_z.data<T>(),
                    gradient<T>(grad_from), gradient<T>(grad_to), gradient<T>(grad_a)});
      });
    });
  });
  return z;
}

}  // namespace sluice
