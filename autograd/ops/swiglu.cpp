#include "autograd/ops/swiglu.h"

#include "autograd/kernels/swiglu.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

OpSample sample(std::string label, std::vector<Tensor> inputs) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = {true, true},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {swiglu(tape, in[0], in[1])};
          }};
}

}  // namespace

const OpInfo& swiglu_info() {
  static constexpr OpInfo kInfo{
      "swiglu", "y[i] = gate[i] / (1 + e^-gate[i]) up[i]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("[5, 7]", {make.uniform({5, 7}, -3.0, 3.0), make.uniform({5, 7})}),
                sample("[2, 33]", {make.uniform({2, 33}), make.uniform({2, 33})}),
                sample("no rows", {make.uniform({0, 4}), make.uniform({0, 4})})};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("unequal", {make.uniform({5, 7}), make.uniform({5, 6})})};
      }};
  return kInfo;
}

Tensor swiglu(Tape& tape, const Tensor& gate, const Tensor& up) {
  check_alike("swiglu", {"gate", gate}, {"up", up});
  const int64_t F = gate.rank() == 0 ? 1 : gate.dim(-1);
  const int64_t rows = gate.shape().rows();
  Tensor y = tape.empty(gate.shape(), gate.dtype());
  tape.run(swiglu_info(), moving({gate, up, y}), [&] {
    dispatch_float(gate.dtype(), [&]<class T>() {
      kernels::swiglu<T>(
          rows, F, {.gate = gate.data<T>(), .up = up.data<T>(), .in_stride = F, .h = y.data<T>()});
    });
  });
  tape.record(swiglu_info(), {gate, up}, {&y}, {gate, up}, [rows, F](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_gate = wanted_target(b, 0);
    GradTarget grad_up = wanted_target(b, 1);
    b.run(moving({b.saved(0), b.saved(1), grad_y, grad_gate.tensor, grad_up.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::swiglu_backward<T>(rows, F,
                                    {.gate = b.saved(0).data<T>(),
                                     .up = b.saved(1).data<T>(),
                                     .in_stride = F,
                                     .grad_h = grad_y.data<T>(),
                                     .grad_gate = gradient<T>(grad_gate),
                                     .grad_up = gradient<T>(grad_up)});
      });
    });
  });
  return y;
}

}  // namespace sluice
