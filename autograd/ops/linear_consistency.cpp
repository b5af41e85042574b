#include "autograd/ops/linear_consistency.h"

#include <algorithm>

#include "autograd/kernels/linear_consistency.h"
#include "autograd/ops/common.h"
#include "autograd/ops/early_gradient.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "linear_consistency";

OpSample sample(std::string label, SampleFactory& make, const Shape& hidden, int64_t vocab,
                const std::vector<int32_t>& targets, double divisor = 1.0) {
  return {.label = std::move(label),
          .inputs = {make.uniform(hidden), make.uniform({vocab, hidden[1]}),
                     make.integers({static_cast<int64_t>(targets.size())}, targets)},
          .differentiable = {true, true, false},
          .apply = [divisor](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {linear_consistency(tape, in[0], in[1], in[2], divisor)};
          }};
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {sample("one token", make, {2, 4}, 5, {3, 3}),
          sample("some ignored", make, {6, 9}, 17, {0, -100, 16, 0, -100, 16}, 4.0),
          sample("all ignored", make, {4, 4}, 5, {-100, -100, -100, -100}),
          sample("no token", make, {0, 4}, 5, {})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  auto widths = sample("widths differ", make, {2, 4}, 5, {1, 1});
  widths.inputs[1] = make.uniform({5, 3});
  return {std::move(widths), sample("one pass and a half", make, {3, 4}, 5, {1, 2, 1}),
          sample("too few targets", make, {4, 4}, 5, {1, 2})};
}

void check(const Tensor& hidden, const Tensor& weight, const Tensor& targets) {
  check_rank(kOp, "hidden", hidden, 2, "[2 N, D]");
  check_rank(kOp, "weight", weight, 2, "[V, D]");
  check_same_dtype(kOp, {"hidden", hidden}, {"weight", weight});
  check_dtype(kOp, "targets", targets, DType::i32);
  SLUICE_CHECK(ShapeError, hidden.dim(0) % 2 == 0, "{}: hidden is {}, expected two equal passes",
               kOp, hidden.shape());
  SLUICE_CHECK(ShapeError, hidden.dim(1) == weight.dim(1),
               "{}: hidden is {} but weight is {}; last dimensions {} and {} differ", kOp,
               hidden.shape(), weight.shape(), hidden.dim(1), weight.dim(1));
  check_shape(kOp, "targets", targets, {hidden.dim(0)});
}

}  // namespace

const OpInfo& linear_consistency_info() {
  static constexpr OpInfo kInfo{kOp, "loss = sum_n (KL(p_n || q_n) + KL(q_n || p_n)) / (2 divisor)",
                                samples, misuses};
  return kInfo;
}

Tensor linear_consistency(Tape& tape, const Tensor& hidden, const Tensor& weight,
                          const Tensor& targets, double divisor) {
  check(hidden, weight, targets);
  const int64_t N = hidden.dim(0) / 2;
  const int64_t D = hidden.dim(1);
  const int64_t V = weight.dim(0);
  const DType dtype = hidden.dtype();
  Tensor loss = tape.empty({}, dtype);
  Tensor grad_hidden = early_gradient(tape, hidden);
  Tensor grad_weight = early_gradient(tape, weight);
  {
    Tensor logits = tape.empty({2 * std::min(N, kernels::linear_consistency_chunk(V)), V}, dtype);
    const int products = 1 + (grad_hidden.defined() ? 1 : 0) + (grad_weight.defined() ? 1 : 0);
    KernelCost cost = moving({hidden, weight, grad_hidden, grad_weight});
    cost.flops = 2.0 * products * static_cast<double>(hidden.numel()) * static_cast<double>(V);
    tape.run(linear_consistency_info(), cost, [&] {
      dispatch_float(dtype, [&]<class T>() {
        kernels::LinearConsistency<T> args{.N = N,
                                           .D = D,
                                           .V = V,
                                           .hidden = hidden.data<T>(),
                                           .weight = weight.data<T>(),
                                           .targets = targets.data<int32_t>(),
                                           .divisor = static_cast<T>(divisor),
                                           .logits = logits.data<T>()};
        if (grad_hidden.defined()) args.grad_hidden = grad_hidden.data<T>();
        if (grad_weight.defined()) args.grad_weight = grad_weight.data<T>();
        *loss.data<T>() = static_cast<T>(kernels::linear_consistency(args));
      });
    });
  }
  record_scaled(tape, linear_consistency_info(), {hidden, weight}, loss,
                {grad_hidden, grad_weight});
  return loss;
}

}  // namespace sluice
