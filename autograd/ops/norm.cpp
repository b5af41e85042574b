#include "autograd/ops/norm.h"

#include "autograd/kernels/layer_norm.h"
#include "autograd/kernels/rms_norm.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

constexpr double kSampleEps = 1e-5;

OpSample rms_norm_sample(std::string label, std::vector<Tensor> inputs) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = {true, true},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {rms_norm(tape, in[0], in[1], kSampleEps)};
          }};
}

OpSample layer_norm_sample(std::string label, std::vector<Tensor> inputs) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = {true, true, true},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {layer_norm(tape, in[0], in[1], in[2], kSampleEps)};
          }};
}

void check_row(std::string_view op, const Tensor& x) {
  check_min_rank(op, "x", x, 1);
  SLUICE_CHECK(ShapeError, x.dim(-1) > 0, "{}: x is {}, expected a last dimension of at least 1",
               op, x.shape());
}

}  // namespace

const OpInfo& rms_norm_info() {
  static constexpr OpInfo kInfo{
      "rms_norm", "y[..., d] = weight[d] x[..., d] (mean_d x[..., d]^2 + eps)^(-1/2)",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {rms_norm_sample("[5, 7]", {make.uniform({5, 7}), make.uniform({7})}),
                rms_norm_sample("[2, 3, 32]", {make.uniform({2, 3, 32}), make.uniform({32})}),
                rms_norm_sample("[40, 1]", {make.uniform({40, 1}, 0.5, 1.0), make.uniform({1})}),
                rms_norm_sample("no rows", {make.uniform({0, 4}), make.uniform({4})})};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {rms_norm_sample("short weight", {make.uniform({5, 7}), make.uniform({6})}),
                rms_norm_sample("empty row", {make.uniform({5, 0}), make.uniform({0})}),
                rms_norm_sample("a scalar", {make.uniform({}), make.uniform({1})})};
      }};
  return kInfo;
}

Tensor rms_norm(Tape& tape, const Tensor& x, const Tensor& weight, double eps) {
  check_same_dtype("rms_norm", {"x", x}, {"weight", weight});
  check_row("rms_norm", x);
  check_shape("rms_norm", "weight", weight, {x.dim(-1)});
  const int64_t rows = x.shape().rows();
  const int64_t D = x.dim(-1);
  Tensor y = tape.empty(x.shape(), x.dtype());
  Tensor reciprocal_rms = tape.empty({rows}, x.dtype());
  tape.run(rms_norm_info(), moving({x, weight, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::rms_norm<T>(rows, D,
                           {.x = x.data<T>(),
                            .weight = weight.data<T>(),
                            .epsilon = eps,
                            .y = y.data<T>(),
                            .reciprocal_rms = reciprocal_rms.data<T>()});
    });
  });
  tape.record(rms_norm_info(), {x, weight}, {&y}, {x, weight, reciprocal_rms},
              [rows, D](Backward& b) {
                const Tensor grad_y = b.grad(0);
                GradTarget grad_x = wanted_target(b, 0);
                GradTarget grad_weight = wanted_target(b, 1);
                b.run(moving({b.saved(0), grad_y, grad_x.tensor}), [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    kernels::rms_norm_backward<T>(rows, D,
                                                  {.x = b.saved(0).data<T>(),
                                                   .weight = b.saved(1).data<T>(),
                                                   .reciprocal_rms = b.saved(2).data<T>(),
                                                   .grad_y = grad_y.data<T>(),
                                                   .grad_x = gradient<T>(grad_x),
                                                   .grad_weight = gradient<T>(grad_weight)});
                  });
                });
              });
  return y;
}

const OpInfo& layer_norm_info() {
  static constexpr OpInfo kInfo{
      "layer_norm", "y[..., d] = weight[d] (x[..., d] - mean) (var + eps)^(-1/2) + bias[d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {layer_norm_sample("[5, 7]",
                                  {make.uniform({5, 7}), make.uniform({7}), make.uniform({7})}),
                layer_norm_sample("[2, 3, 32]", {make.uniform({2, 3, 32}), make.uniform({32}),
                                                 make.uniform({32})}),
                layer_norm_sample("no rows",
                                  {make.uniform({0, 4}), make.uniform({4}), make.uniform({4})})};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {layer_norm_sample("short weight",
                                  {make.uniform({5, 7}), make.uniform({6}), make.uniform({7})}),
                layer_norm_sample("long bias",
                                  {make.uniform({5, 7}), make.uniform({7}), make.uniform({8})}),
                layer_norm_sample("empty row",
                                  {make.uniform({5, 0}), make.uniform({0}), make.uniform({0})})};
      }};
  return kInfo;
}

Tensor layer_norm(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias,
                  double eps) {
  check_same_dtype("layer_norm", {"x", x}, {"weight", weight});
  check_same_dtype("layer_norm", {"x", x}, {"bias", bias});
  check_row("layer_norm", x);
  check_shape("layer_norm", "weight", weight, {x.dim(-1)});
  check_shape("layer_norm", "bias", bias, {x.dim(-1)});
  const int64_t rows = x.shape().rows();
  const int64_t D = x.dim(-1);
  Tensor y = tape.empty(x.shape(), x.dtype());
  Tensor mean = tape.empty({rows}, x.dtype());
  Tensor reciprocal_deviation = tape.empty({rows}, x.dtype());
  tape.run(layer_norm_info(), moving({x, weight, bias, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::layer_norm<T>(rows, D,
                             {.x = x.data<T>(),
                              .weight = weight.data<T>(),
                              .bias = bias.data<T>(),
                              .epsilon = eps,
                              .y = y.data<T>(),
                              .mean = mean.data<T>(),
                              .reciprocal_deviation = reciprocal_deviation.data<T>()});
    });
  });
  tape.record(layer_norm_info(), {x, weight, bias}, {&y}, {x, weight, mean, reciprocal_deviation},
              [rows, D](Backward& b) {
                const Tensor grad_y = b.grad(0);
                GradTarget grad_x = wanted_target(b, 0);
                GradTarget grad_weight = wanted_target(b, 1);
                GradTarget grad_bias = wanted_target(b, 2);
                b.run(moving({b.saved(0), grad_y, grad_x.tensor}), [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    kernels::layer_norm_backward<T>(rows, D,
                                                    {.x = b.saved(0).data<T>(),
                                                     .weight = b.saved(1).data<T>(),
                                                     .mean = b.saved(2).data<T>(),
                                                     .reciprocal_deviation = b.saved(3).data<T>(),
                                                     .grad_y = grad_y.data<T>(),
                                                     .grad_x = gradient<T>(grad_x),
                                                     .grad_weight = gradient<T>(grad_weight),
                                                     .grad_bias = gradient<T>(grad_bias)});
                  });
                });
              });
  return y;
}

}  // namespace sluice
