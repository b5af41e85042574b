#include "autograd/ops/linear_distillation.h"

#include <algorithm>

#include "autograd/kernels/linear_distillation.h"
#include "autograd/ops/common.h"
#include "autograd/ops/early_gradient.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "linear_distillation";

/// Inputs: hidden, weight, the teacher's, targets.
OpSample sample(std::string label, SampleFactory& make, const Shape& hidden, int64_t teacher_size,
                int64_t vocab, const std::vector<int32_t>& targets,
                const LinearDistillationOptions& options = {}) {
  return {.label = std::move(label),
          .inputs = {make.uniform(hidden), make.uniform({vocab, hidden[1]}),
                     make.uniform({hidden[0], teacher_size}), make.uniform({vocab, teacher_size}),
                     make.integers({static_cast<int64_t>(targets.size())}, targets)},
          .differentiable = {true, true, false, false, false},
          .apply = [options](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {linear_distillation(tape, in[0], in[1], {in[2], in[3]}, in[4], options)};
          }};
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {sample("one token", make, {1, 4}, 3, 5, {3}),
          sample("some ignored", make, {4, 9}, 9, 17, {0, -100, 16, 2}, {2.0, 3.0}),
          sample("cold", make, {3, 5}, 2, 7, {1, 1, 6}, {0.5, 1.0}),
          sample("all ignored", make, {2, 4}, 4, 5, {-100, -100}),
          sample("no token", make, {0, 4}, 4, 5, {})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  auto widths = sample("widths differ", make, {2, 4}, 4, 5, {1, 1});
  widths.inputs[1] = make.uniform({5, 3});
  auto vocabularies = sample("vocabularies differ", make, {2, 4}, 4, 5, {1, 1});
  vocabularies.inputs[3] = make.uniform({6, 4});
  return {std::move(widths), std::move(vocabularies),
          sample("too few targets", make, {4, 4}, 4, 5, {1, 2})};
}

void check(const Tensor& hidden, const Tensor& weight, const TeacherHead& teacher,
           const Tensor& targets) {
  check_rank(kOp, "hidden", hidden, 2, "[N, D]");
  check_rank(kOp, "weight", weight, 2, "[V, D]");
  check_rank(kOp, "teacher.hidden", teacher.hidden, 2, "[N, C]");
  check_same_dtype(kOp, {"hidden", hidden}, {"weight", weight});
  check_same_dtype(kOp, {"hidden", hidden}, {"teacher.hidden", teacher.hidden});
  check_same_dtype(kOp, {"hidden", hidden}, {"teacher.weight", teacher.weight});
  check_dtype(kOp, "targets", targets, DType::i32);
  SLUICE_CHECK(ShapeError, hidden.dim(1) == weight.dim(1),
               "{}: hidden is {} but weight is {}; last dimensions {} and {} differ", kOp,
               hidden.shape(), weight.shape(), hidden.dim(1), weight.dim(1));
  check_shape(kOp, "teacher.weight", teacher.weight, {weight.dim(0), teacher.hidden.dim(1)});
  check_shape(kOp, "teacher.hidden", teacher.hidden, {hidden.dim(0), teacher.hidden.dim(1)});
  check_shape(kOp, "targets", targets, {hidden.dim(0)});
}

}  // namespace

const OpInfo& linear_distillation_info() {
  static constexpr OpInfo kInfo{kOp, "loss = tau^2 sum_n KL(q_n || p_n) / divisor", samples,
                                misuses};
  return kInfo;
}

Tensor linear_distillation(Tape& tape, const Tensor& hidden, const Tensor& weight,
                           const TeacherHead& teacher, const Tensor& targets,
                           const LinearDistillationOptions& options) {
  check(hidden, weight, teacher, targets);
  const int64_t N = hidden.dim(0);
  const int64_t V = weight.dim(0);
  const DType dtype = hidden.dtype();
  Tensor loss = tape.empty({}, dtype);
  Tensor grad_hidden = early_gradient(tape, hidden);
  Tensor grad_weight = early_gradient(tape, weight);
  {
    Tensor logits = tape.empty({2 * std::min(N, kernels::linear_distillation_chunk(V)), V}, dtype);
    const int products = 1 + (grad_hidden.defined() ? 1 : 0) + (grad_weight.defined() ? 1 : 0);
    KernelCost cost =
        moving({hidden, weight, teacher.hidden, teacher.weight, grad_hidden, grad_weight});
    cost.flops = 2.0 * static_cast<double>(V) *
                 (products * static_cast<double>(hidden.numel()) +
                  static_cast<double>(teacher.hidden.numel()));
    tape.run(linear_distillation_info(), cost, [&] {
      dispatch_float(dtype, [&]<class T>() {
        kernels::LinearDistillation<T> args{.N = N,
                                            .D = hidden.dim(1),
                                            .C = teacher.hidden.dim(1),
                                            .V = V,
                                            .hidden = hidden.data<T>(),
                                            .weight = weight.data<T>(),
                                            .teacher_hidden = teacher.hidden.data<T>(),
                                            .teacher_weight = teacher.weight.data<T>(),
                                            .targets = targets.data<int32_t>(),
                                            .temperature = static_cast<T>(options.temperature),
                                            .divisor = static_cast<T>(options.divisor),
                                            .logits = logits.data<T>()};
        if (grad_hidden.defined()) args.grad_hidden = grad_hidden.data<T>();
        if (grad_weight.defined()) args.grad_weight = grad_weight.data<T>();
        *loss.data<T>() = static_cast<T>(kernels::linear_distillation(args));
      });
    });
  }
  record_scaled(tape, linear_distillation_info(), {hidden, weight}, loss,
                {grad_hidden, grad_weight});
  return loss;
}

}  // namespace sluice
