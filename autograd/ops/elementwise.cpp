#include "autograd/ops/elementwise.h"

#include "autograd/kernels/elementwise.h"
#include "autograd/kernels/reduce.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

using BinaryOp = Tensor (*)(Tape&, const Tensor&, const Tensor&);

OpSample binary_sample(std::string label, std::vector<Tensor> inputs, BinaryOp op) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = {true, true},
          .apply = [op](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {op(tape, in[0], in[1])};
          }};
}

template <BinaryOp op>
std::vector<OpSample> equal_shape_samples(SampleFactory& make) {
  return {binary_sample("[3, 5]", {make.uniform({3, 5}), make.uniform({3, 5})}, op),
          binary_sample("scalars", {make.uniform({}), make.uniform({})}, op),
          binary_sample("no rows", {make.uniform({0, 4}), make.uniform({0, 4})}, op)};
}

template <BinaryOp op>
std::vector<OpSample> unequal_shape_misuses(SampleFactory& make) {
  return {binary_sample("transposed", {make.uniform({3, 5}), make.uniform({5, 3})}, op),
          binary_sample("missing dimension", {make.uniform({1, 5}), make.uniform({5})}, op)};
}

template <Tensor (*op)(Tape&, const Tensor&)>
std::vector<OpSample> with_number_samples(SampleFactory& make) {
  const auto apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
    return {op(tape, in[0])};
  };
  return {
      {.label = "[3, 5]",
       .inputs = {make.uniform({3, 5})},
       .differentiable = {true},
       .apply = apply},
      {.label = "scalar", .inputs = {make.uniform({})}, .differentiable = {true}, .apply = apply}};
}

Tensor add_scaled_sample(Tape& tape, const Tensor& a, const Tensor& b) {
  return add_scaled(tape, a, b, 0.6);
}
Tensor scale_sample(Tape& tape, const Tensor& x) { return scale(tape, x, -1.7); }
Tensor add_constant_sample(Tape& tape, const Tensor& x) { return add_constant(tape, x, 0.3); }

/// target = factor * grad_y
void put_scaled(Backward& b, int input, double factor) {
  const Tensor grad_y = b.grad(0);
  GradTarget target = b.target(input);
  b.run(moving({grad_y, target.tensor}), [&] {
    dispatch_float(grad_y.dtype(), [&]<class T>() {
      kernels::put_scaled<T>(grad_y.numel(), static_cast<T>(factor), grad_y.data<T>(),
                             gradient<T>(target));
    });
  });
}

/// target = grad_y * other
void put_product(Backward& b, int input, const Tensor& other) {
  const Tensor grad_y = b.grad(0);
  GradTarget target = b.target(input);
  b.run(moving({grad_y, other, target.tensor}), [&] {
    dispatch_float(grad_y.dtype(), [&]<class T>() {
      kernels::put_product<T>(grad_y.numel(), grad_y.data<T>(), other.data<T>(),
                              gradient<T>(target));
    });
  });
}

}  // namespace

// --- two operands
// ------------------------------------------------------------------------------------

const OpInfo& add_info() {
  static constexpr OpInfo kInfo{"add", "y[i] = a[i] + b[i]", equal_shape_samples<add>,
                                unequal_shape_misuses<add>};
  return kInfo;
}

Tensor add(Tape& tape, const Tensor& a, const Tensor& b) {
  check_alike("add", {"a", a}, {"b", b});
  Tensor y = tape.empty(a.shape(), a.dtype());
  tape.run(add_info(), moving({a, b, y}), [&] {
    dispatch_float(a.dtype(), [&]<class T>() {
      kernels::add<T>(a.numel(), a.data<T>(), b.data<T>(), y.data<T>());
    });
  });
  tape.record(add_info(), {a, b}, {&y}, {}, [](Backward& back) {
    if (back.needs(0)) back.pass(0, back.grad(0));
    if (back.needs(1)) back.pass(1, back.grad(0));
  });
  return y;
}

const OpInfo& sub_info() {
  static constexpr OpInfo kInfo{"sub", "y[i] = a[i] - b[i]", equal_shape_samples<sub>,
                                unequal_shape_misuses<sub>};
  return kInfo;
}

Tensor sub(Tape& tape, const Tensor& a, const Tensor& b) {
  check_alike("sub", {"a", a}, {"b", b});
  Tensor y = tape.empty(a.shape(), a.dtype());
  tape.run(sub_info(), moving({a, b, y}), [&] {
    dispatch_float(a.dtype(), [&]<class T>() {
      kernels::sub<T>(a.numel(), a.data<T>(), b.data<T>(), y.data<T>());
    });
  });
  tape.record(sub_info(), {a, b}, {&y}, {}, [](Backward& back) {
    if (back.needs(0)) back.pass(0, back.grad(0));
    if (back.needs(1)) put_scaled(back, 1, -1.0);
  });
  return y;
}

const OpInfo& mul_info() {
  static constexpr OpInfo kInfo{"mul", "y[i] = a[i] b[i]", equal_shape_samples<mul>,
                                unequal_shape_misuses<mul>};
  return kInfo;
}

Tensor mul(Tape& tape, const Tensor& a, const Tensor& b) {
  check_alike("mul", {"a", a}, {"b", b});
  Tensor y = tape.empty(a.shape(), a.dtype());
  tape.run(mul_info(), moving({a, b, y}), [&] {
    dispatch_float(a.dtype(), [&]<class T>() {
      kernels::mul<T>(a.numel(), a.data<T>(), b.data<T>(), y.data<T>());
    });
  });
  tape.record(mul_info(), {a, b}, {&y}, {saved_for(tape, b, a), saved_for(tape, a, b)},
              [](Backward& back) {
                if (back.needs(0)) put_product(back, 0, back.saved(1));
                if (back.needs(1)) put_product(back, 1, back.saved(0));
              });
  return y;
}

const OpInfo& add_scaled_info() {
  static constexpr OpInfo kInfo{"add_scaled", "y[i] = a[i] + factor b[i]",
                                equal_shape_samples<add_scaled_sample>,
                                unequal_shape_misuses<add_scaled_sample>};
  return kInfo;
}

Tensor add_scaled(Tape& tape, const Tensor& a, const Tensor& b, double factor) {
  check_alike("add_scaled", {"a", a}, {"b", b});
  Tensor y = tape.empty(a.shape(), a.dtype());
  tape.run(add_scaled_info(), moving({a, b, y}), [&] {
    dispatch_float(a.dtype(), [&]<class T>() {
      kernels::add_scaled<T>(a.numel(), a.data<T>(), static_cast<T>(factor), b.data<T>(),
                             y.data<T>());
    });
  });
  tape.record(add_scaled_info(), {a, b}, {&y}, {}, [factor](Backward& back) {
    if (back.needs(0)) back.pass(0, back.grad(0));
    if (back.needs(1)) put_scaled(back, 1, factor);
  });
  return y;
}

// --- a number
// ----------------------------------------------------------------------------------------

const OpInfo& scale_info() {
  static constexpr OpInfo kInfo{"scale", "y[i] = factor x[i]", with_number_samples<scale_sample>,
                                nullptr};
  return kInfo;
}

Tensor scale(Tape& tape, const Tensor& x, double factor) {
  check_floating("scale", "x", x);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(scale_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::scale<T>(x.numel(), static_cast<T>(factor), x.data<T>(), y.data<T>());
    });
  });
  tape.record(scale_info(), {x}, {&y}, {}, [factor](Backward& b) { put_scaled(b, 0, factor); });
  return y;
}

const OpInfo& add_constant_info() {
  static constexpr OpInfo kInfo{"add_constant", "y[i] = x[i] + constant",
                                with_number_samples<add_constant_sample>, nullptr};
  return kInfo;
}

Tensor add_constant(Tape& tape, const Tensor& x, double constant) {
  check_floating("add_constant", "x", x);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(add_constant_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::add_constant<T>(x.numel(), x.data<T>(), static_cast<T>(constant), y.data<T>());
    });
  });
  tape.record(add_constant_info(), {x}, {&y}, {}, [](Backward& b) { b.pass(0, b.grad(0)); });
  return y;
}

// --- broadcasts
// --------------------------------------------------------------------------------------

const OpInfo& add_bias_info() {
  static constexpr OpInfo kInfo{
      "add_bias", "y[..., d] = x[..., d] + bias[d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {binary_sample("[4, 3]", {make.uniform({4, 3}), make.uniform({3})}, add_bias),
                binary_sample("[2, 3, 5]", {make.uniform({2, 3, 5}), make.uniform({5})}, add_bias),
                binary_sample("no rows", {make.uniform({0, 3}), make.uniform({3})}, add_bias)};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {binary_sample("too short", {make.uniform({4, 3}), make.uniform({2})}, add_bias),
                binary_sample("a matrix", {make.uniform({4, 3}), make.uniform({1, 3})}, add_bias),
                binary_sample("a scalar x", {make.uniform({}), make.uniform({1})}, add_bias)};
      }};
  return kInfo;
}

Tensor add_bias(Tape& tape, const Tensor& x, const Tensor& bias) {
  check_same_dtype("add_bias", {"x", x}, {"bias", bias});
  check_min_rank("add_bias", "x", x, 1);
  check_shape("add_bias", "bias", bias, {x.dim(-1)});
  const int64_t rows = x.shape().rows();
  const int64_t D = x.dim(-1);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(add_bias_info(), moving({x, bias, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::add_bias<T>(rows, D, x.data<T>(), bias.data<T>(), y.data<T>());
    });
  });
  tape.record(add_bias_info(), {x, bias}, {&y}, {}, [rows, D](Backward& b) {
    const Tensor grad_y = b.grad(0);
    if (b.needs(0)) b.pass(0, grad_y);
    if (!b.needs(1)) return;
    GradTarget grad_bias = b.target(1);
    b.run(moving({grad_y, grad_bias.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::sum_rows<T>(rows, D, grad_y.data<T>(), gradient<T>(grad_bias));
      });
    });
  });
  return y;
}

const OpInfo& mul_columns_info() {
  static constexpr OpInfo kInfo{
      "mul_columns", "y[..., d] = x[..., d] factor[d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {binary_sample("[4, 3]", {make.uniform({4, 3}), make.uniform({3})}, mul_columns),
                binary_sample("[2, 300, 5]", {make.uniform({2, 300, 5}), make.uniform({5})},
                              mul_columns),
                binary_sample("no rows", {make.uniform({0, 3}), make.uniform({3})}, mul_columns)};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {binary_sample("too short", {make.uniform({4, 3}), make.uniform({2})}, mul_columns),
                binary_sample("a scalar x", {make.uniform({}), make.uniform({1})}, mul_columns)};
      }};
  return kInfo;
}

Tensor mul_columns(Tape& tape, const Tensor& x, const Tensor& factor) {
  check_same_dtype("mul_columns", {"x", x}, {"factor", factor});
  check_min_rank("mul_columns", "x", x, 1);
  check_shape("mul_columns", "factor", factor, {x.dim(-1)});
  const int64_t rows = x.shape().rows();
  const int64_t D = x.dim(-1);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(mul_columns_info(), moving({x, factor, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::mul_columns<T>(rows, D, x.data<T>(), factor.data<T>(), y.data<T>());
    });
  });
  tape.record(mul_columns_info(), {x, factor}, {&y},
              {saved_for(tape, factor, x), saved_for(tape, x, factor)}, [rows, D](Backward& b) {
                const Tensor grad_y = b.grad(0);
                GradTarget grad_x = wanted_target(b, 0);
                GradTarget grad_factor = wanted_target(b, 1);
                b.run(moving({b.saved(0), b.saved(1), grad_y, grad_x.tensor}), [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    kernels::mul_columns_backward<T>(
                        rows, D,
                        {.x = b.needs(1) ? b.saved(0).data<T>() : nullptr,
                         .factor = b.needs(0) ? b.saved(1).data<T>() : nullptr,
                         .grad_y = grad_y.data<T>(),
                         .grad_x = gradient<T>(grad_x),
                         .grad_factor = gradient<T>(grad_factor)});
                  });
                });
              });
  return y;
}

const OpInfo& mul_rows_info() {
  static constexpr OpInfo kInfo{
      "mul_rows", "y[n, d] = x[n, d] row[n]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {binary_sample("[4, 3]", {make.uniform({4, 3}), make.uniform({4})}, mul_rows),
                binary_sample("[1, 37]", {make.uniform({1, 37}), make.uniform({1})}, mul_rows)};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {binary_sample("too long", {make.uniform({4, 3}), make.uniform({5})}, mul_rows),
                binary_sample("a cube", {make.uniform({4, 3, 2}), make.uniform({4})}, mul_rows)};
      }};
  return kInfo;
}

Tensor mul_rows(Tape& tape, const Tensor& x, const Tensor& row) {
  check_same_dtype("mul_rows", {"x", x}, {"row", row});
  check_rank("mul_rows", "x", x, 2, "[N, D]");
  check_shape("mul_rows", "row", row, {x.dim(0)});
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(mul_rows_info(), moving({x, row, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::mul_rows<T>(x.dim(0), x.dim(1), x.data<T>(), row.data<T>(), y.data<T>());
    });
  });
  tape.record(mul_rows_info(), {x, row}, {&y}, {saved_for(tape, row, x), saved_for(tape, x, row)},
              [](Backward& b) {
                const Tensor grad_y = b.grad(0);
                GradTarget grad_x = wanted_target(b, 0);
                GradTarget grad_row = wanted_target(b, 1);
                b.run(moving({b.saved(0), b.saved(1), grad_y, grad_x.tensor}), [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    kernels::mul_rows_backward<T>(
                        grad_y.dim(0), grad_y.dim(1),
                        {.x = b.needs(1) ? b.saved(0).data<T>() : nullptr,
                         .factor = b.needs(0) ? b.saved(1).data<T>() : nullptr,
                         .grad_y = grad_y.data<T>(),
                         .grad_x = gradient<T>(grad_x),
                         .grad_factor = gradient<T>(grad_row)});
                  });
                });
              });
  return y;
}

}  // namespace sluice
