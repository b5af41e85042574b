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
                     {b.data<T>(), product.b_transposed ? K : N, product.b_transposed},
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

Shape with_last(const Shape& shape, int64_t last) { return shape.resized(-1, last); }

}  // namespace

const OpInfo& matmul_info() {
  static constexpr OpInfo kInfo{"matmul", "c[m, n] = sum_k op(a)[m, k] op(b)[k, n]", matmul_samples,
                                matmul_misuses};
  return kInfo;
}

Tensor matmul(Tape& tape, const Tensor& a, const Tensor& b, MatmulForm form) {
  check_same_dtype("matmul", {"a", a}, {"b", b});
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
  check_same_dtype("linear", {"x", x}, {"weight", weight});
  check_min_rank("linear", "x", x, 1);
  check_rank("linear", "weight", weight, 2, "[out, in]");
  const int64_t in = weight.dim(1);
  const int64_t out = weight.dim(0);
  SLUICE_CHECK(ShapeError, x.dim(-1) == in,
               "linear: x is {} but weight is {}; last dimensions {} and {} differ", x.shape(),
               weight.shape(), x.dim(-1), in);
  const int64_t rows = x.shape().rows();
  if (bias.defined()) {
    check_same_dtype("linear", {"x", x}, {"bias", bias});
    check_shape("linear", "bias", bias, {out});
  }
  Tensor y = tape.empty(with_last(x.shape(), out), x.dtype());
  const Product forward{{rows, out, in}, false, true};
  tape.run(linear_info(), cost_of(forward, x, weight, y), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      if (bias.defined()) {
        kernels::put_columns<T>(rows, out, bias.data<T>(), {y.data<T>(), false});
      }
    });
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
                if (!b.needs(2)) return;
                GradTarget grad_bias = b.target(2);
                b.run(moving({grad_y, grad_bias.tensor}), [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    kernels::sum_rows<T>(rows, out, grad_y.data<T>(), gradient<T>(grad_bias));
                  });
                });
              });
  return y;
}

}  // namespace sluice
