#include "autograd/kernels/elementwise.h"
#include "autograd/kernels/gelu.h"
#include "autograd/ops/common.h"
#include "autograd/ops/elementwise.h"

namespace sluice {
namespace {

using kernels::UnaryFunction;
using UnaryOp = Tensor (*)(Tape&, const Tensor&);

OpSample unary_sample(std::string label, const Tensor& x, UnaryOp op) {
  return {.label = std::move(label),
          .inputs = {x},
          .differentiable = {true},
          .apply = [op](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {op(tape, in[0])};
          }};
}

/// Points on both sides of zero, at least 0.05 away from it, where relu and relu_squared have their kink.
template <UnaryOp op>
std::vector<OpSample> signed_samples(SampleFactory& make) {
  return {unary_sample("negative", make.uniform({3, 5}, -3.0, -0.05), op),
          unary_sample("positive", make.uniform({2, 7}, 0.05, 3.0), op),
          unary_sample("no elements", make.uniform({0, 4}), op)};
}

template <UnaryOp op>
std::vector<OpSample> positive_samples(SampleFactory& make) {
  return {unary_sample("positive", make.uniform({3, 5}, 0.2, 3.0), op),
          unary_sample("scalar", make.uniform({}, 0.2, 3.0), op)};
}

Tensor apply_unary(Tape& tape, const OpInfo& op, UnaryFunction f, const Tensor& x) {
  check_floating(op.name, "x", x);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(op, moving({x, y}), [&] {
    dispatch_float(x.dtype(),
                   [&]<class T>() { kernels::unary<T>(f, x.numel(), x.data<T>(), y.data<T>()); });
  });
  const Tensor& saved = kernels::differentiates_from_output(f) ? y : x;
  tape.record(op, {x}, {&y}, {saved}, [f](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({b.saved(0), grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::unary_backward<T>(f, grad_y.numel(), b.saved(0).data<T>(), grad_y.data<T>(),
                                   gradient<T>(grad_x));
      });
    });
  });
  return y;
}

}  // namespace

const OpInfo& square_info() {
  static constexpr OpInfo kInfo{"square", "y[i] = x[i]^2", signed_samples<square>, nullptr};
  return kInfo;
}
Tensor square(Tape& tape, const Tensor& x) {
  return apply_unary(tape, square_info(), UnaryFunction::square, x);
}

const OpInfo& sqrt_info() {
  static constexpr OpInfo kInfo{"sqrt", "y[i] = x[i]^(1/2)", positive_samples<sqrt>, nullptr};
  return kInfo;
}
Tensor sqrt(Tape& tape, const Tensor& x) {
  return apply_unary(tape, sqrt_info(), UnaryFunction::sqrt, x);
}

const OpInfo& exp_info() {
  static constexpr OpInfo kInfo{"exp", "y[i] = e^x[i]", signed_samples<exp>, nullptr};
  return kInfo;
}
Tensor exp(Tape& tape, const Tensor& x) {
  return apply_unary(tape, exp_info(), UnaryFunction::exp, x);
}

const OpInfo& log_info() {
  static constexpr OpInfo kInfo{"log", "y[i] = ln x[i]", positive_samples<log>, nullptr};
  return kInfo;
}
Tensor log(Tape& tape, const Tensor& x) {
  return apply_unary(tape, log_info(), UnaryFunction::log, x);
}

const OpInfo& tanh_info() {
  static constexpr OpInfo kInfo{"tanh", "y[i] = tanh x[i]", signed_samples<tanh>, nullptr};
  return kInfo;
}
Tensor tanh(Tape& tape, const Tensor& x) {
  return apply_unary(tape, tanh_info(), UnaryFunction::tanh, x);
}

const OpInfo& erf_info() {
  static constexpr OpInfo kInfo{"erf", "y[i] = 2/pi^(1/2) integral of e^(-t^2) from 0 to x[i]",
                                signed_samples<erf>, nullptr};
  return kInfo;
}
Tensor erf(Tape& tape, const Tensor& x) {
  return apply_unary(tape, erf_info(), UnaryFunction::erf, x);
}

const OpInfo& sigmoid_info() {
  static constexpr OpInfo kInfo{"sigmoid", "y[i] = 1 / (1 + e^-x[i])", signed_samples<sigmoid>,
                                nullptr};
  return kInfo;
}
Tensor sigmoid(Tape& tape, const Tensor& x) {
  return apply_unary(tape, sigmoid_info(), UnaryFunction::sigmoid, x);
}

const OpInfo& softplus_info() {
  static constexpr OpInfo kInfo{"softplus", "y[i] = ln(1 + e^x[i])", signed_samples<softplus>,
                                nullptr};
  return kInfo;
}
Tensor softplus(Tape& tape, const Tensor& x) {
  return apply_unary(tape, softplus_info(), UnaryFunction::softplus, x);
}

const OpInfo& silu_info() {
  static constexpr OpInfo kInfo{"silu", "y[i] = x[i] / (1 + e^-x[i])", signed_samples<silu>,
                                nullptr};
  return kInfo;
}
Tensor silu(Tape& tape, const Tensor& x) {
  return apply_unary(tape, silu_info(), UnaryFunction::silu, x);
}

const OpInfo& elu_plus_one_info() {
  static constexpr OpInfo kInfo{"elu_plus_one", "y[i] = x[i] > 0 ? x[i] + 1 : e^x[i]",
                                signed_samples<elu_plus_one>, nullptr};
  return kInfo;
}
Tensor elu_plus_one(Tape& tape, const Tensor& x) {
  return apply_unary(tape, elu_plus_one_info(), UnaryFunction::elu_plus_one, x);
}

const OpInfo& relu_info() {
  static constexpr OpInfo kInfo{"relu", "y[i] = max(x[i], 0)", signed_samples<relu>, nullptr};
  return kInfo;
}
Tensor relu(Tape& tape, const Tensor& x) {
  return apply_unary(tape, relu_info(), UnaryFunction::relu, x);
}

const OpInfo& relu_squared_info() {
  static constexpr OpInfo kInfo{"relu_squared", "y[i] = max(x[i], 0)^2",
                                signed_samples<relu_squared>, nullptr};
  return kInfo;
}
Tensor relu_squared(Tape& tape, const Tensor& x) {
  return apply_unary(tape, relu_squared_info(), UnaryFunction::relu_squared, x);
}

const OpInfo& gelu_tanh_info() {
  static constexpr OpInfo kInfo{"gelu_tanh",
                                "y[i] = x[i]/2 (1 + tanh((2/pi)^(1/2) (x[i] + 0.044715 x[i]^3)))",
                                signed_samples<gelu_tanh>, nullptr};
  return kInfo;
}
Tensor gelu_tanh(Tape& tape, const Tensor& x) {
  check_floating("gelu_tanh", "x", x);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(gelu_tanh_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(),
                   [&]<class T>() { kernels::gelu_tanh<T>(x.numel(), x.data<T>(), y.data<T>()); });
  });
  tape.record(gelu_tanh_info(), {x}, {&y}, {x}, [](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({b.saved(0), grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::gelu_tanh_backward<T>(grad_y.numel(), b.saved(0).data<T>(), grad_y.data<T>(),
                                       gradient<T>(grad_x));
      });
    });
  });
  return y;
}

}  // namespace sluice
