#include "autograd/ops/causal_conv1d.h"

#include "autograd/kernels/causal_conv1d.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "causal_conv1d";

OpSample sample(std::string label, std::vector<Tensor> inputs, std::vector<int64_t> documents,
                bool silu = true) {
  return {.label = std::move(label),
          .inputs = inputs,
          .differentiable = std::vector<bool>(inputs.size(), true),
          .apply = [documents = std::move(documents), silu](
                       Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            const Tensor bias = in.size() > 2 ? in[2] : Tensor();
            return {causal_conv1d(tape, in[0], in[1], bias, {documents, silu})};
          }};
}

OpSample sample(SampleFactory& make, std::string label, int64_t tokens, int64_t channels,
                int64_t taps, std::vector<int64_t> documents, bool silu = true) {
  return sample(std::move(label),
                {make.uniform({tokens, channels}, -2.0, 2.0), make.uniform({channels, taps}),
                 make.uniform({channels})},
                std::move(documents), silu);
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {sample(make, "one document", 7, 5, 4, {0, 7}),
          sample(make, "packed documents", 12, 3, 4, {0, 1, 3, 3, 12}),
          sample(make, "without SiLU", 9, 18, 3, {0, 4, 9}, false),
          sample(make, "one tap", 4, 2, 1, {0, 4}),
          sample(make, "six taps", 40, 2, 6, {0, 40}),
          sample("without bias", {make.uniform({6, 2}), make.uniform({2, 4})}, {0, 6}),
          sample(make, "no token", 0, 2, 4, {0})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  return {sample("channels differ", {make.uniform({7, 3}), make.uniform({2, 4})}, {0, 7}),
          sample("no tap", {make.uniform({7, 3}), make.uniform({3, 0})}, {0, 7}),
          sample("bias of another length",
                 {make.uniform({7, 3}), make.uniform({3, 4}), make.uniform({4})}, {0, 7}),
          sample("documents end early", {make.uniform({7, 3}), make.uniform({3, 4})}, {0, 6}),
          sample("one dimension", {make.uniform({7}), make.uniform({7, 4})}, {0, 7})};
}

kernels::CausalConv1dShape check(std::string_view op, const Tensor& x, const Tensor& weight,
                                 const Tensor& bias, bool silu) {
  check_rank(op, "x", x, 2, "[N, C]");
  check_rank(op, "weight", weight, 2, "[C, K]");
  check_same_dtype(op, {"x", x}, {"weight", weight});
  SLUICE_CHECK(ShapeError, weight.dim(0) == x.dim(1) && weight.dim(1) > 0,
               "{}: weight is {}, expected [{}, K] with at least one tap for x {}", op,
               weight.shape(), x.dim(1), x.shape());
  if (bias.defined()) {
    check_same_dtype(op, {"x", x}, {"bias", bias});
    check_shape(op, "bias", bias, {x.dim(1)});
  }
  return {x.dim(1), weight.dim(1), silu};
}

KernelCost cost_of(const Tensor& x, const Tensor& weight, int products,
                   std::initializer_list<Tensor> moved) {
  KernelCost cost = moving(moved);
  cost.flops = 2.0 * products * static_cast<double>(x.numel() * weight.dim(1));
  return cost;
}

template <class T>
const T* data_or_null(const Tensor& tensor) {
  return tensor.defined() ? tensor.data<T>() : nullptr;
}

}  // namespace

const OpInfo& causal_conv1d_info() {
  static constexpr OpInfo kInfo{
      kOp, "y[t, c] = silu(bias[c] + sum_k weight[c, k] x[t - K + 1 + k, c])", samples, misuses};
  return kInfo;
}

Tensor causal_conv1d(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
                     const CausalConv1dOptions& options) {
  const auto shape = check(kOp, x, weight, bias, options.silu);
  const auto documents = options.document_offsets;
  const int64_t end = documents.empty() ? 0 : documents.back();
  SLUICE_CHECK(ShapeError, end == x.dim(0), "{}: documents end at token {}, x has {} tokens", kOp,
               end, x.dim(0));
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(causal_conv1d_info(), cost_of(x, weight, 1, {x, weight, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::causal_conv1d<T>(
          shape, documents,
          {x.data<T>(), weight.data<T>(), data_or_null<T>(bias), y.data<T>(), nullptr});
    });
  });
  tape.record(causal_conv1d_info(), {x, weight, bias}, {&y}, {x, weight, bias},
              [shape, documents](Backward& b) {
                const Tensor grad_y = b.grad(0);
                GradTarget grad_x = wanted_target(b, 0);
                GradTarget grad_weight = wanted_target(b, 1);
                GradTarget grad_bias = wanted_target(b, 2);
                b.run(cost_of(b.saved(0), b.saved(1), 2, {b.saved(0), grad_y, grad_x.tensor}), [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    kernels::causal_conv1d_backward<T>(
                        shape, documents,
                        {b.saved(0).data<T>(), b.saved(1).data<T>(), data_or_null<T>(b.saved(2)),
                         grad_y.data<T>(), gradient<T>(grad_x), gradient<T>(grad_weight),
                         gradient<T>(grad_bias)});
                  });
                });
              });
  return y;
}

Tensor causal_conv1d_step(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
                          bool silu, Tensor& history) {
  constexpr std::string_view kStep = "causal_conv1d_step";
  const auto shape = check(kStep, x, weight, bias, silu);
  check_same_dtype(kStep, {"x", x}, {"history", history});
  check_shape(kStep, "history", history, {shape.K - 1, shape.C});
  const NoGrad no_grad(tape);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(causal_conv1d_info(), cost_of(x, weight, 1, {x, weight, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      const int64_t documents[] = {0, x.dim(0)};
      kernels::causal_conv1d<T>(
          shape, documents,
          {x.data<T>(), weight.data<T>(), data_or_null<T>(bias), y.data<T>(), history.data<T>()});
      kernels::advance_history<T>(shape, x.dim(0), x.data<T>(), history.data<T>());
    });
  });
  return y;
}

}  // namespace sluice
