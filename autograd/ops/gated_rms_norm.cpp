#include "autograd/ops/gated_rms_norm.h"

#include "autograd/kernels/gated_rms_norm.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "gated_rms_norm";

OpSample sample(std::string label, std::vector<Tensor> inputs, GatedRmsNormOptions options) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = {true, true, true},
          .apply = [options](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {gated_rms_norm(tape, in[0], in[1], in[2], options)};
          }};
}

OpSample sample(SampleFactory& make, std::string label, int64_t rows, int64_t width,
                GatedRmsNormOptions options) {
  return sample(std::move(label),
                {make.uniform({rows, width}, 0.2, 2.0), make.uniform({rows, width}, -2.0, 2.0),
                 make.uniform({width})},
                options);
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {
      sample(make, "gate first", 5, 7, {}),
      sample(make, "gate first, three groups", 4, 51, {.group_size = 17}),
      sample(make, "norm first", 5, 7, {.norm_before_gate = true}),
      sample(make, "norm first, two groups", 40, 6, {.group_size = 3, .norm_before_gate = true}),
      sample(make, "no rows", 0, 4, {})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  return {
      sample("z of another width", {make.uniform({5, 6}), make.uniform({5, 4}), make.uniform({6})},
             {}),
      sample("short weight", {make.uniform({5, 6}), make.uniform({5, 6}), make.uniform({5})}, {}),
      sample("groups do not divide",
             {make.uniform({5, 6}), make.uniform({5, 6}), make.uniform({6})}, {.group_size = 4}),
      sample("empty row", {make.uniform({5, 0}), make.uniform({5, 0}), make.uniform({0})}, {}),
      sample("one dimension", {make.uniform({6}), make.uniform({6}), make.uniform({6})}, {})};
}

}  // namespace

const OpInfo& gated_rms_norm_info() {
  static constexpr OpInfo kInfo{
      kOp, "y[n, d] = weight[d] t[n, d] (mean_group t^2 + eps)^(-1/2), t = x silu(z)", samples,
      misuses};
  return kInfo;
}

Tensor gated_rms_norm(Tape& tape, const Tensor& x, const Tensor& z, const Tensor& weight,
                      const GatedRmsNormOptions& options) {
  check_rank(kOp, "x", x, 2, "[N, D]");
  check_alike(kOp, {"x", x}, {"z", z});
  check_same_dtype(kOp, {"x", x}, {"weight", weight});
  const int64_t D = x.dim(1);
  SLUICE_CHECK(ShapeError, D > 0, "{}: x is {}, expected a last dimension of at least 1", kOp,
               x.shape());
  check_shape(kOp, "weight", weight, {D});
  const int64_t group_size = options.group_size == 0 ? D : options.group_size;
  SLUICE_CHECK(ShapeError, group_size > 0 && D % group_size == 0,
               "{}: groups of {} channels, expected a divisor of the width of x {}", kOp,
               group_size, x.shape());
  const kernels::GatedRmsNormShape shape{D, group_size, options.norm_before_gate, options.eps};
  const int64_t rows = x.dim(0);
  Tensor y = tape.empty(x.shape(), x.dtype());
  Tensor reciprocal_rms = tape.empty({rows, D / group_size}, x.dtype());
  tape.run(gated_rms_norm_info(), moving({x, z, weight, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::gated_rms_norm<T>(
          rows, shape,
          {x.data<T>(), z.data<T>(), weight.data<T>(), y.data<T>(), reciprocal_rms.data<T>()});
    });
  });
  tape.record(gated_rms_norm_info(), {x, z, weight}, {&y}, {x, z, weight, reciprocal_rms},
              [rows, shape](Backward& b) {
                const Tensor grad_y = b.grad(0);
                GradTarget grad_x = wanted_target(b, 0);
                GradTarget grad_z = wanted_target(b, 1);
                GradTarget grad_weight = wanted_target(b, 2);
                b.run(moving({b.saved(0), b.saved(1), grad_y, grad_x.tensor, grad_z.tensor}), [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    kernels::gated_rms_norm_backward<T>(
                        rows, shape,
                        {b.saved(0).data<T>(), b.saved(1).data<T>(), b.saved(2).data<T>(),
                         b.saved(3).data<T>(), grad_y.data<T>(), gradient<T>(grad_x),
                         gradient<T>(grad_z), gradient<T>(grad_weight)});
                  });
                });
              });
  return y;
}

}  // namespace sluice
