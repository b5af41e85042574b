#include "autograd/ops/matmul.h"

#include <optional>

#include "autograd/kernels/elementwise.h"
#include "autograd/kernels/gemm.h"
#include "autograd/kernels/reduce.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

/// One product of a forward or backward: result += op(a) op(b).
struct Product {
  kernels::GemmSize size;
  bool a_transposed;
  bool b_transposed;
};

KernelCost cost_of(const Product& product, const Tensor& a, const Tensor& b, const Tensor& c) {
  KernelCost cost = moving({a, b, c});
  cost.flops = 2.0 * static_cast<double>(product.size.M) * static_cast<double>(product.size.N) *
               static_cast<double>(product.size.K);
  return cost;
}

void multiply(const Product& product, const Tensor& a, const Tensor& b, GradTarget c) {
  const auto [M, N, K] = product.size;
  dispatch_float(a.dtype(), [&]<class T>() {
    kernels::gemm<T>(product.size,
                     {a.data<T>(), product.a_transposed ? M : K, product.a_transposed},
                     {stored<T>(b), product.b_transposed ? K : N, product.b_transposed},
                     {c.tensor.data<T>(), N, T{1}, c.beta<T>()});
  });
}

/// target (+)= op(a) op(b), in the backward of an input.
void add_product(Backward& b, int input, const Product& product, const Tensor& left,
                 const Tensor& right) {
  const GradTarget target = b.target(input);
  b.run(cost_of(product, left, right, target.tensor),
        [&] { multiply(product, left, right, target); });
}

template <MatmulForm form>
OpSample matmul_sample(std::string label, SampleFactory& make, const Shape& a, const Shape& b) {
  return {.label = std::move(label),
          .inputs = {make.uniform(a), make.uniform(b)},
          .differentiable = {true, true},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {matmul(tape, in[0], in[1], form)};
          }};
}

std::vector<OpSample> matmul_samples(SampleFactory& make) {
  return {matmul_sample<MatmulForm::nn>("nn", make, {5, 7}, {7, 3}),
          matmul_sample<MatmulForm::nn>("nn of three dimensions", make, {2, 3, 4}, {4, 5}),
          matmul_sample<MatmulForm::nt>("nt", make, {5, 7}, {3, 7}),
          matmul_sample<MatmulForm::tn>("tn", make, {6, 5}, {6, 3}),
          matmul_sample<MatmulForm::nn>("one by one", make, {1, 1}, {1, 1}),
          matmul_sample<MatmulForm::nt>("no rows", make, {0, 4}, {3, 4}),
          matmul_sample<MatmulForm::nn>("empty sum", make, {2, 0}, {0, 3})};
}

std::vector<OpSample> matmul_misuses(SampleFactory& make) {
  return {matmul_sample<MatmulForm::nn>("nn", make, {5, 7}, {6, 3}),
          matmul_sample<MatmulForm::nt>("nt", make, {5, 7}, {3, 6}),
          matmul_sample<MatmulForm::tn>("tn", make, {6, 5}, {5, 3}),
          matmul_sample<MatmulForm::nn>("a vector", make, {7}, {7, 3}),
          matmul_sample<MatmulForm::tn>("tn of three dimensions", make, {2, 6, 5}, {6, 3})};
}

OpSample linear_sample(std::string label, SampleFactory& make, const Shape& x, const Shape& weight,
                       std::optional<Shape> bias) {
  OpSample sample{.label = std::move(label),
                  .inputs = {make.uniform(x), make.uniform(weight)},
                  .differentiable = {true, true}};
  if (bias) {
    sample.inputs.push_back(make.uniform(*bias));
    sample.differentiable.push_back(true);
  }
  sample.apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
    return {linear(tape, in[0], in[1], in.size() > 2 ? in[2] : Tensor())};
  };
  return sample;
}

std::vector<OpSample> linear_samples(SampleFactory& make) {
  return {linear_sample("without bias", make, {5, 7}, {3, 7}, {}),
          linear_sample("with bias", make, {5, 7}, {3, 7}, Shape{3}),
          linear_sample("three dimensions", make, {2, 3, 4}, {5, 4}, Shape{5}),
          linear_sample("no rows", make, {0, 4}, {3, 4}, Shape{3})};
}

std::vector<OpSample> linear_misuses(SampleFactory& make) {
  return {linear_sample("widths differ", make, {5, 7}, {3, 6}, {}),
          linear_sample("bias of another width", make, {5, 7}, {3, 7}, Shape{4}),
          linear_sample("weight of three dimensions", make, {5, 7}, {1, 3, 7}, {})};
}

/// `count` linears of `in` inputs whose output j has 3 + 2 * j columns; every second one has a bias
/// with `biases`.
OpSample joint_sample(std::string label, SampleFactory& make, const Shape& x, int64_t in,
                      size_t count, bool biases) {
  OpSample sample{.label = std::move(label), .inputs = {make.uniform(x)}};
  for (size_t j = 0; j < count; ++j) {
    const int64_t out = 3 + 2 * static_cast<int64_t>(j);
    sample.inputs.push_back(make.uniform({out, in}));
    if (biases && j % 2 == 0) sample.inputs.push_back(make.uniform({out}));
  }
  sample.differentiable.assign(sample.inputs.size(), true);
  sample.apply = [count](Tape& tape, std::span<const Tensor> inputs) -> std::vector<Tensor> {
    std::vector<LinearWeights> linears;
    for (const Tensor& tensor : inputs.subspan(1)) {
      if (tensor.rank() == 2) {
        linears.push_back({tensor, {}});
      } else {
        linears.back().bias = tensor;
      }
    }
    std::vector<Tensor> outputs(count);
    joint_linear(tape, inputs[0], linears, outputs);
    return outputs;
  };
  return sample;
}

std::vector<OpSample> joint_samples(SampleFactory& make) {
  return {joint_sample("three", make, {5, 7}, 7, 3, false),
          joint_sample("three, two with a bias", make, {2, 3, 4}, 4, 3, true),
          joint_sample("more rows than are packed at once", make, {150, 3}, 3, 2, false),
          joint_sample("one", make, {5, 7}, 7, 1, true),
          joint_sample("no rows", make, {0, 4}, 4, 2, true)};
}

std::vector<OpSample> joint_misuses(SampleFactory& make) {
  return {joint_sample("widths differ", make, {5, 7}, 6, 2, false),
          joint_sample("nothing to multiply by", make, {5, 7}, 7, 0, false)};
}

Shape with_last(const Shape& shape, int64_t last) { return shape.resized(-1, last); }

/// x [..., in], weight [out, in], bias [out].
void check_linear(Tape& tape, std::string_view op, const Tensor& x, const LinearWeights& linear) {
  const auto& [weight, bias] = linear;
  check_weight(tape, op, {"x", x}, {"weight", weight});
  check_min_rank(op, "x", x, 1);
  check_rank(op, "weight", weight, 2, "[out, in]");
  SLUICE_CHECK(ShapeError, x.dim(-1) == weight.dim(1),
               "{}: x is {} but weight is {}; last dimensions {} and {} differ", op, x.shape(),
               weight.shape(), x.dim(-1), weight.dim(1));
  if (!bias.defined()) return;
  check_same_dtype(op, {"x", x}, {"bias", bias});
  check_shape(op, "bias", bias, {weight.dim(0)});
}

/// Every row of y [rows, out] = bias, when there is one.
void put_bias(int64_t rows, const Tensor& bias, Tensor& y) {
  if (!bias.defined()) return;
  dispatch_float(y.dtype(), [&]<class T>() {
    kernels::put_columns<T>(rows, bias.dim(0), bias.data<T>(), {y.data<T>(), false});
  });
}

/// The gradient of a bias that was added to every row.
void add_bias_gradient(Backward& b, int input, int64_t rows, const Tensor& grad_y) {
  GradTarget grad_bias = b.target(input);
  b.run(moving({grad_y, grad_bias.tensor}), [&] {
    dispatch_float(grad_y.dtype(), [&]<class T>() {
      kernels::sum_rows<T>(rows, grad_y.dim(-1), grad_y.data<T>(), gradient<T>(grad_bias));
    });
  });
}

/// Of one product of x [rows, in] with weights [out_j, in], apart from the bytes.
double joint_flops(int64_t rows, int64_t in, int64_t outs) {
  return 2.0 * static_cast<double>(rows) * static_cast<double>(in) * static_cast<double>(outs);
}

/// Inputs of joint_linear: x, then the weights, then the biases.
constexpr size_t kMostJointInputs = 1 + 2 * kMostJointWeights;

/// grad_x[n, i] (+)= sum_j sum_o grad_y_j[n, o] w_j[o, i], from the last j to the first, as a tape would
/// walk back over several linear(); w_j is saved(1 + j).
void add_joint_grad_x(Backward& b, int64_t rows, int64_t in, std::span<const Tensor> grads) {
  GradTarget target = b.target(0);
  KernelCost cost = moving({target.tensor});
  for (size_t j = 0; j < grads.size(); ++j) {
    cost.bytes += moving({grads[j], b.saved(1 + static_cast<int>(j))}).bytes;
    cost.flops += joint_flops(rows, in, grads[j].dim(-1));
  }
  b.run(cost, [&] {
    dispatch_float(target.tensor.dtype(), [&]<class T>() {
      std::array<kernels::GemmTerm<T>, kMostJointWeights> terms;
      for (size_t j = 0; j < grads.size(); ++j) {
        const int64_t out = grads[j].dim(-1);
        terms[grads.size() - 1 - j] = {out,
                                       {grads[j].data<T>(), out},
                                       {b.saved(1 + static_cast<int>(j)).template data<T>(), in}};
      }
      kernels::gemm_sum<T>(rows, in, std::span(terms).first(grads.size()),
                           {target.tensor.data<T>(), in, T{1}, target.beta<T>()});
    });
  });
}

/// grad_w_j[o, i] (+)= sum_n grad_y_j[n, o] x[n, i] for every weight that wants it; x is saved(0).
void add_joint_grad_weights(Backward& b, int64_t rows, int64_t in, std::span<const Tensor> grads) {
  std::array<GradTarget, kMostJointWeights> targets;
  KernelCost cost;
  size_t wanted = 0;
  for (size_t j = 0; j < grads.size(); ++j) {
    const int input = 1 + static_cast<int>(j);
    targets[j] = wanted_target(b, input);
    if (!targets[j].tensor.defined()) continue;
    cost.bytes += moving({grads[j], targets[j].tensor}).bytes;
    cost.flops += joint_flops(rows, in, grads[j].dim(-1));
    ++wanted;
  }
  if (wanted == 0) return;
  const Tensor& x = b.saved(0);
  cost.bytes += moving({x}).bytes;
  b.run(cost, [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      std::array<kernels::JointProduct<T>, kMostJointWeights> products;
      size_t count = 0;
      for (size_t j = 0; j < grads.size(); ++j) {
        if (!targets[j].tensor.defined()) continue;
        const int64_t out = grads[j].dim(-1);
        products[count++] = {
            out,
            {grads[j].data<T>(), out, true},
            {targets[j].tensor.template data<T>(), in, T{1}, targets[j].template beta<T>()}};
      }
      kernels::gemm_joint_rows<T>(in, rows, std::span(products).first(count), {x.data<T>(), in});
    });
  });
}

}  // namespace

const OpInfo& matmul_info() {
  static constexpr OpInfo kInfo{"matmul", "c[m, n] = sum_k op(a)[m, k] op(b)[k, n]", matmul_samples,
                                matmul_misuses};
  return kInfo;
}

Tensor matmul(Tape& tape, const Tensor& a, const Tensor& b, MatmulForm form) {
  check_weight(tape, "matmul", {"a", a}, {"b", b});
  check_min_rank("matmul", "a", a, 2);
  check_rank("matmul", "b", b, 2, "two dimensions");
  const bool a_transposed = form == MatmulForm::tn;
  const bool b_transposed = form == MatmulForm::nt;
  if (a_transposed) check_rank("matmul", "a", a, 2, "two dimensions");
  const int64_t K = a_transposed ? a.dim(0) : a.dim(-1);
  const int64_t b_K = b.dim(b_transposed ? 1 : 0);
  SLUICE_CHECK(ShapeError, K == b_K,
               "matmul: a is {} and b is {} in form {}; the summed sizes {} and {} differ",
               a.shape(), b.shape(),
               a_transposed   ? "tn"
               : b_transposed ? "nt"
                              : "nn",
               K, b_K);
  const int64_t M = a_transposed ? a.dim(1) : a.shape().rows();
  const int64_t N = b.dim(b_transposed ? 0 : 1);
  Tensor c = tape.empty(a_transposed ? Shape{M, N} : with_last(a.shape(), N), a.dtype());
  const Product forward{{M, N, K}, a_transposed, b_transposed};
  tape.run(matmul_info(), cost_of(forward, a, b, c), [&] { multiply(forward, a, b, {c, true}); });
  tape.record(
      matmul_info(), {a, b}, {&c}, {saved_for(tape, b, a), saved_for(tape, a, b)},
      [form, M, N, K](Backward& backward) {
        const Tensor grad_c = backward.grad(0);
        if (backward.needs(0)) {
          const Tensor& right = backward.saved(1);
          if (form == MatmulForm::tn) {  // grad_a[K, M] = b grad_c^T
            add_product(backward, 0, {{K, M, N}, false, true}, right, grad_c);
          } else {
            add_product(backward, 0, {{M, K, N}, false, form == MatmulForm::nn}, grad_c, right);
          }
        }
        if (backward.needs(1)) {
          const Tensor& left = backward.saved(0);
          if (form == MatmulForm::nt) {  // grad_b[N, K] = grad_c^T a
            add_product(backward, 1, {{N, K, M}, true, false}, grad_c, left);
          } else {
            add_product(backward, 1, {{K, N, M}, form == MatmulForm::nn, false}, left, grad_c);
          }
        }
      });
  return c;
}

const OpInfo& linear_info() {
  static constexpr OpInfo kInfo{"linear", "y[n, o] = sum_i x[n, i] weight[o, i] + bias[o]",
                                linear_samples, linear_misuses};
  return kInfo;
}

Tensor linear(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& bias) {
  check_linear(tape, "linear", x, {weight, bias});
  const int64_t in = weight.dim(1);
  const int64_t out = weight.dim(0);
  const int64_t rows = x.shape().rows();
  Tensor y = tape.empty(with_last(x.shape(), out), x.dtype());
  const Product forward{{rows, out, in}, false, true};
  tape.run(linear_info(), cost_of(forward, x, weight, y), [&] {
    put_bias(rows, bias, y);
    multiply(forward, x, weight, {y, !bias.defined()});
  });
  tape.record(linear_info(), {x, weight, bias}, {&y},
              {saved_for(tape, weight, x), saved_for(tape, x, weight)},
              [rows, in, out](Backward& b) {
                const Tensor grad_y = b.grad(0);
                if (b.needs(0))
                  add_product(b, 0, {{rows, in, out}, false, false}, grad_y, b.saved(1));
                if (b.needs(1))
                  add_product(b, 1, {{out, in, rows}, true, false}, grad_y, b.saved(0));
                if (b.needs(2)) add_bias_gradient(b, 2, rows, grad_y);
              });
  return y;
}

const OpInfo& joint_linear_info() {
  static constexpr OpInfo kInfo{"joint_linear",
                                "y_j[n, o] = sum_i x[n, i] weight_j[o, i] + bias_j[o]",
                                joint_samples, joint_misuses};
  return kInfo;
}

void joint_linear(Tape& tape, const Tensor& x, std::span<const LinearWeights> linears,
                  std::span<Tensor> outputs) {
  const size_t count = linears.size();
  SLUICE_CHECK(ShapeError, count > 0 && count <= kMostJointWeights,
               "joint_linear: found {} weights, allowed 1 to {}", count, kMostJointWeights);
  SLUICE_INTERNAL_CHECK(outputs.size() == count, "joint_linear: {} outputs for {} weights",
                        outputs.size(), count);
  for (const LinearWeights& linear : linears) check_linear(tape, "joint_linear", x, linear);
  const int64_t rows = x.shape().rows();
  const int64_t in = x.dim(-1);
  std::array<Tensor, kMostJointInputs> inputs{x};
  std::array<Tensor, 1 + kMostJointWeights> saved;
  std::array<Tensor*, kMostJointWeights> results{};
  KernelCost cost = moving({x});
  for (size_t j = 0; j < count; ++j) {
    const auto& [weight, bias] = linears[j];
    outputs[j] = tape.empty(with_last(x.shape(), weight.dim(0)), x.dtype());
    results[j] = &outputs[j];
    inputs[1 + j] = weight;
    inputs[1 + count + j] = bias;
    saved[1 + j] = saved_for(tape, x, weight);
    if (tape.requires_grad(weight)) saved[0] = x;
    cost.bytes += moving({weight, outputs[j]}).bytes;
    cost.flops += joint_flops(rows, in, weight.dim(0));
  }
  tape.run(joint_linear_info(), cost, [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      std::array<kernels::JointProduct<T>, kMostJointWeights> products;
      for (size_t j = 0; j < count; ++j) {
        const auto& [weight, bias] = linears[j];
        put_bias(rows, bias, outputs[j]);
        products[j] = {weight.dim(0),
                       {stored<T>(weight), in, true},
                       {outputs[j].data<T>(), weight.dim(0), T{1}, bias.defined() ? T{1} : T{0}}};
      }
      kernels::gemm_joint_columns<T>(rows, in, {x.data<T>(), in}, std::span(products).first(count));
    });
  });
  tape.record(joint_linear_info(), std::span(inputs).first(1 + 2 * count),
              std::span(results).first(count), std::span(saved).first(1 + count),
              [rows, in, count](Backward& b) {
                std::array<Tensor, kMostJointWeights> grads;
                for (size_t j = 0; j < count; ++j) grads[j] = b.grad(static_cast<int>(j));
                const auto all = std::span(grads).first(count);
                if (b.needs(0)) add_joint_grad_x(b, rows, in, all);
                add_joint_grad_weights(b, rows, in, all);
                for (size_t j = 0; j < count; ++j) {
                  const auto input = static_cast<int>(1 + count + j);
                  if (b.needs(input)) add_bias_gradient(b, input, rows, grads[j]);
                }
              });
}

}  // namespace sluice
