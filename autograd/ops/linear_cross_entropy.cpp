#include "autograd/ops/linear_cross_entropy.h"

#include <algorithm>

#include "autograd/kernels/linear_cross_entropy.h"
#include "autograd/ops/common.h"
#include "autograd/ops/early_gradient.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "linear_cross_entropy";

OpSample sample(std::string label, SampleFactory& make, const Shape& hidden, int64_t vocab,
                const std::vector<int32_t>& targets, LinearCrossEntropyOptions options) {
  return {.label = std::move(label),
          .inputs = {make.uniform(hidden), make.uniform({vocab, hidden[1]}),
                     make.integers({static_cast<int64_t>(targets.size())}, targets)},
          .differentiable = {true, true, false},
          .apply = [options](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {linear_cross_entropy(tape, in[0], in[1], in[2], options).loss};
          }};
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {sample("one token", make, {1, 4}, 5, {3}, {}),
          sample("some ignored", make, {6, 9}, 17, {0, -100, 16, 3, -100, 3}, {.divisor = 4.0}),
          sample("z-loss", make, {5, 8}, 11, {0, 1, 2, 10, -100}, {.divisor = 3.0, .z_loss = 0.1}),
          sample("all ignored", make, {2, 4}, 5, {-100, -100}, {}),
          sample("no token", make, {0, 4}, 5, {}, {})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  auto widths = sample("widths differ", make, {2, 4}, 5, {1, 2}, {});
  widths.inputs[1] = make.uniform({5, 3});
  return {std::move(widths), sample("too few targets", make, {3, 4}, 5, {1, 2}, {}),
          sample("target past the vocabulary", make, {2, 4}, 5, {1, 5}, {})};
}

void check(Tape& tape, const Tensor& hidden, const Tensor& weight, const Tensor& targets) {
  check_rank(kOp, "hidden", hidden, 2, "[N, D]");
  check_rank(kOp, "weight", weight, 2, "[V, D]");
  check_weight(tape, kOp, {"hidden", hidden}, {"weight", weight});
  check_dtype(kOp, "targets", targets, DType::i32);
  SLUICE_CHECK(ShapeError, hidden.dim(1) == weight.dim(1),
               "{}: hidden is {} but weight is {}; last dimensions {} and {} differ", kOp,
               hidden.shape(), weight.shape(), hidden.dim(1), weight.dim(1));
  check_shape(kOp, "targets", targets, {hidden.dim(0)});
  if (!targets.has_memory()) return;
  for (const int32_t target : targets.span<int32_t>()) {
    SLUICE_CHECK(ShapeError, target < weight.dim(0),
                 "{}: target {} is not below the vocabulary of {}", kOp, target, weight.dim(0));
  }
}

}  // namespace

const OpInfo& linear_cross_entropy_info() {
  static constexpr OpInfo kInfo{
      kOp, "loss = (sum_n lse(hidden[n] weight^T) - z[n, target[n]] + z_loss lse^2) / divisor",
      samples, misuses};
  return kInfo;
}

LinearCrossEntropyResult linear_cross_entropy(Tape& tape, const Tensor& hidden,
                                              const Tensor& weight, const Tensor& targets,
                                              const LinearCrossEntropyOptions& options) {
  check(tape, hidden, weight, targets);
  const int64_t N = hidden.dim(0);
  const int64_t D = hidden.dim(1);
  const int64_t V = weight.dim(0);
  const DType dtype = hidden.dtype();
  LinearCrossEntropyResult result{tape.empty({}, dtype), tape.empty({N}, dtype)};
  Tensor grad_hidden = early_gradient(tape, hidden);
  Tensor grad_weight = early_gradient(tape, weight);
  {
    Tensor logits = tape.empty({std::min(N, kernels::linear_cross_entropy_chunk(V)), V}, dtype);
    const int products = 1 + (grad_hidden.defined() ? 1 : 0) + (grad_weight.defined() ? 1 : 0);
    KernelCost cost = moving({hidden, weight, grad_hidden, grad_weight});
    cost.flops =
        2.0 * products * static_cast<double>(N) * static_cast<double>(D) * static_cast<double>(V);
    tape.run(linear_cross_entropy_info(), cost, [&] {
      dispatch_float(dtype, [&]<class T>() {
        kernels::LinearCrossEntropy<T> args{.N = N,
                                            .D = D,
                                            .V = V,
                                            .hidden = hidden.data<T>(),
                                            .weight = stored<T>(weight),
                                            .targets = targets.data<int32_t>(),
                                            .divisor = static_cast<T>(options.divisor),
                                            .z_loss = static_cast<T>(options.z_loss),
                                            .logits = logits.data<T>(),
                                            .token_loss = result.token_loss.data<T>()};
        if (grad_hidden.defined()) args.grad_hidden = grad_hidden.data<T>();
        if (grad_weight.defined()) args.grad_weight = grad_weight.data<T>();
        *result.loss.data<T>() = static_cast<T>(kernels::linear_cross_entropy(args));
      });
    });
  }
  record_scaled(tape, linear_cross_entropy_info(), {hidden, weight}, result.loss,
                {grad_hidden, grad_weight});
  return result;
}

}  // namespace sluice
