#include "autograd/ops/ternary.h"

#include "autograd/kernels/ternary.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

/// The gradient is the identity's on purpose, which differences of a step function are not.
OpSample straight_through_sample(std::string label, const Tensor& x,
                                 Tensor (*op)(Tape&, const Tensor&)) {
  return {.label = std::move(label),
          .inputs = {x},
          .differentiable = {false},
          .apply = [op](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {op(tape, in[0])};
          },
          .compare_dtypes = false};
}

Tensor with_default_epsilon(Tape& tape, const Tensor& x) { return ternarise(tape, x); }

void record_identity(Tape& tape, const OpInfo& op, const Tensor& x, Tensor& y) {
  tape.record(op, {x}, {&y}, {}, [](Backward& b) { b.pass(0, b.grad(0)); });
}

}  // namespace

const OpInfo& ternarise_info() {
  static constexpr OpInfo kInfo{
      "ternarise", "y[m] = g t, g = mean |x[m]|, t = clamp(round(x[m] / (g + eps)), -1, 1)",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {straight_through_sample("[2, 3, 4]", make.uniform({2, 3, 4}), with_default_epsilon),
                straight_through_sample("no matrices", make.uniform({0, 3}), with_default_epsilon)};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {straight_through_sample("a scalar", make.uniform({}), with_default_epsilon)};
      }};
  return kInfo;
}

Tensor ternarise(Tape& tape, const Tensor& x, double epsilon) {
  check_floating("ternarise", "x", x);
  check_min_rank("ternarise", "x", x, 1);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(ternarise_info(), moving({x, y}), [&] {
    const int64_t matrices = x.dim(0);
    if (matrices == 0) return;
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::ternarise<T>(matrices, x.numel() / matrices, epsilon, x.data<T>(), y.data<T>());
    });
  });
  record_identity(tape, ternarise_info(), x, y);
  return y;
}

const OpInfo& round_rows_to_int8_info() {
  static constexpr OpInfo kInfo{
      "round_rows_to_int8", "y[n] = clamp(round(a x[n]), -128, 127) / a, a = 127 / max |x[n]|",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {straight_through_sample("[3, 5]", make.uniform({3, 5}), round_rows_to_int8),
                straight_through_sample("no rows", make.uniform({0, 5}), round_rows_to_int8)};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {straight_through_sample("one axis", make.uniform({5}), round_rows_to_int8)};
      }};
  return kInfo;
}

Tensor round_rows_to_int8(Tape& tape, const Tensor& x) {
  check_floating("round_rows_to_int8", "x", x);
  check_rank("round_rows_to_int8", "x", x, 2, "[N, D]");
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(round_rows_to_int8_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::round_rows_to_int8<T>(x.dim(0), x.dim(1), x.data<T>(), y.data<T>());
    });
  });
  record_identity(tape, round_rows_to_int8_info(), x, y);
  return y;
}

}  // namespace sluice
