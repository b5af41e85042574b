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

OpSample grouped_rms_norm_sample(std::string label, SampleFactory& make, const Shape& x,
                                 const Shape& weight, const std::vector<int32_t>& offsets) {
  return {.label = std::move(label),
          .inputs = {make.uniform(x), make.uniform(weight),
                     make.integers({static_cast<int64_t>(offsets.size())}, offsets)},
          .differentiable = {true, true, false},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {grouped_rms_norm(tape, in[0], in[1], in[2], kSampleEps)};
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

const OpInfo& grouped_rms_norm_info() {
  static constexpr OpInfo kInfo{
      "grouped_rms_norm", "y[r, ..., d] = weight[e(r), d] x[r, ..., d] / rms(x[r, ...])",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {grouped_rms_norm_sample("uneven", make, {9, 5}, {3, 5}, {0, 2, 3, 9}),
                grouped_rms_norm_sample("heads", make, {4, 2, 6}, {2, 6}, {0, 1, 4}),
                grouped_rms_norm_sample("empty experts", make, {4, 3}, {4, 3}, {0, 0, 4, 4, 4}),
                grouped_rms_norm_sample("no rows", make, {0, 4}, {2, 4}, {0, 0, 0})};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {grouped_rms_norm_sample("short weight", make, {9, 5}, {3, 4}, {0, 2, 3, 9}),
                grouped_rms_norm_sample("too few offsets", make, {9, 5}, {3, 5}, {0, 2, 9}),
                grouped_rms_norm_sample("offsets end early", make, {9, 5}, {3, 5}, {0, 2, 3, 8}),
                grouped_rms_norm_sample("a vector", make, {5}, {1, 5}, {0, 5})};
      }};
  return kInfo;
}

Tensor grouped_rms_norm(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& offsets,
                        double eps) {
  constexpr std::string_view kOp = "grouped_rms_norm";
  check_same_dtype(kOp, {"x", x}, {"weight", weight});
  check_min_rank(kOp, "x", x, 2);
  check_row(kOp, x);
  check_rank(kOp, "weight", weight, 2, "[E, D]");
  check_shape(kOp, "weight", weight, {weight.dim(0), x.dim(-1)});
  check_expert_offsets(kOp, offsets, weight.dim(0), x.dim(0));
  const int64_t D = x.dim(-1);
  const int64_t rows = x.shape().rows();
  const int64_t rows_of_one = x.dim(0) == 0 ? 0 : rows / x.dim(0);
  Tensor y = tape.empty(x.shape(), x.dtype());
  Tensor reciprocal_rms = tape.empty({rows}, x.dtype());
  tape.run(grouped_rms_norm_info(), moving({x, weight, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      for (int64_t e = 0; e < weight.dim(0); ++e) {
        const int64_t begin = offsets.data<int32_t>()[e] * rows_of_one;
        const int64_t end = offsets.data<int32_t>()[e + 1] * rows_of_one;
        kernels::rms_norm<T>(end - begin, D,
                             {.x = x.data<T>() + begin * D,
                              .weight = weight.data<T>() + e * D,
                              .epsilon = eps,
                              .y = y.data<T>() + begin * D,
                              .reciprocal_rms = reciprocal_rms.data<T>() + begin});
      }
    });
  });
  tape.record(grouped_rms_norm_info(), {x, weight}, {&y}, {x, weight, reciprocal_rms, offsets},
              [rows_of_one, D](Backward& b) {
                const Tensor grad_y = b.grad(0);
                GradTarget grad_x = wanted_target(b, 0);
                GradTarget grad_weight = wanted_target(b, 1);
                b.run(moving({b.saved(0), grad_y, grad_x.tensor}), [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    const kernels::Gradient<T> of_x = gradient<T>(grad_x);
                    const kernels::Gradient<T> of_weight = gradient<T>(grad_weight);
                    const int32_t* first = b.saved(3).data<int32_t>();
                    for (int64_t e = 0; e < b.saved(1).dim(0); ++e) {
                      const int64_t begin = first[e] * rows_of_one;
                      const int64_t end = first[e + 1] * rows_of_one;
                      kernels::rms_norm_backward<T>(
                          end - begin, D,
                          {.x = b.saved(0).data<T>() + begin * D,
                           .weight = b.saved(1).data<T>() + e * D,
                           .reciprocal_rms = b.saved(2).data<T>() + begin,
                           .grad_y = grad_y.data<T>() + begin * D,
                           .grad_x = of_x ? of_x.from(begin * D) : of_x,
                           .grad_weight = of_weight ? of_weight.from(e * D) : of_weight});
                    }
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
