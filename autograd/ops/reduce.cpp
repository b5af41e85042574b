#include "autograd/ops/reduce.h"

#include "autograd/kernels/elementwise.h"
#include "autograd/kernels/reduce.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

using ReduceOp = Tensor (*)(Tape&, const Tensor&);

OpSample reduce_sample(std::string label, const Tensor& x, ReduceOp op) {
  return {.label = std::move(label),
          .inputs = {x},
          .differentiable = {true},
          .apply = [op](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {op(tape, in[0])};
          }};
}

/// factor * sum of all elements
Tensor scaled_sum(Tape& tape, const OpInfo& op, const Tensor& x, double factor) {
  Tensor y = tape.empty({}, x.dtype());
  tape.run(op, moving({x, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      *y.data<T>() = static_cast<T>(factor * kernels::sum<T>(x.numel(), x.data<T>()));
    });
  });
  tape.record(op, {x}, {&y}, {}, [factor](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        const T value = static_cast<T>(factor * static_cast<double>(*grad_y.data<T>()));
        kernels::put_constant<T>(grad_x.tensor.numel(), value, gradient<T>(grad_x));
      });
    });
  });
  return y;
}

}  // namespace

const OpInfo& sum_info() {
  static constexpr OpInfo kInfo{"sum", "y = sum_i x[i]",
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  return {reduce_sample("[3, 5]", make.uniform({3, 5}), sum),
                                          reduce_sample("scalar", make.uniform({}), sum),
                                          reduce_sample("nothing", make.uniform({0, 2}), sum)};
                                },
                                nullptr};
  return kInfo;
}

Tensor sum(Tape& tape, const Tensor& x) {
  check_floating("sum", "x", x);
  return scaled_sum(tape, sum_info(), x, 1.0);
}

const OpInfo& mean_info() {
  static constexpr OpInfo kInfo{"mean", "y = (1/n) sum_i x[i]",
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  return {reduce_sample("[3, 5]", make.uniform({3, 5}), mean),
                                          reduce_sample("one", make.uniform({1}), mean)};
                                },
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  return {reduce_sample("nothing", make.uniform({0, 2}), mean)};
                                }};
  return kInfo;
}

Tensor mean(Tape& tape, const Tensor& x) {
  check_floating("mean", "x", x);
  SLUICE_CHECK(ShapeError, x.numel() > 0, "mean: x is {}, expected at least one element",
               x.shape());
  return scaled_sum(tape, mean_info(), x, 1.0 / static_cast<double>(x.numel()));
}

const OpInfo& sum_rows_info() {
  static constexpr OpInfo kInfo{"sum_rows", "y[d] = sum_n x[n, d]",
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  return {
                                      reduce_sample("[7, 3]", make.uniform({7, 3}), sum_rows),
                                      reduce_sample("[300, 2]", make.uniform({300, 2}), sum_rows),
                                      reduce_sample("no rows", make.uniform({0, 3}), sum_rows)};
                                },
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  return {reduce_sample("a vector", make.uniform({7}), sum_rows)};
                                }};
  return kInfo;
}

Tensor sum_rows(Tape& tape, const Tensor& x) {
  check_floating("sum_rows", "x", x);
  check_rank("sum_rows", "x", x, 2, "[N, D]");
  Tensor y = tape.empty({x.dim(1)}, x.dtype());
  tape.run(sum_rows_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::sum_rows<T>(x.dim(0), x.dim(1), x.data<T>(),
                           {.data = y.data<T>(), .accumulate = false});
    });
  });
  tape.record(sum_rows_info(), {x}, {&y}, {}, [](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::put_columns<T>(grad_x.tensor.dim(0), grad_x.tensor.dim(1), grad_y.data<T>(),
                                gradient<T>(grad_x));
      });
    });
  });
  return y;
}

const OpInfo& sum_last_info() {
  static constexpr OpInfo kInfo{
      "sum_last", "y[...] = sum_d x[..., d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {reduce_sample("[7, 3]", make.uniform({7, 3}), sum_last),
                reduce_sample("[2, 3, 35]", make.uniform({2, 3, 35}), sum_last),
                reduce_sample("a vector", make.uniform({4}), sum_last)};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {reduce_sample("a scalar", make.uniform({}), sum_last)};
      }};
  return kInfo;
}

Tensor sum_last(Tape& tape, const Tensor& x) {
  check_floating("sum_last", "x", x);
  check_min_rank("sum_last", "x", x, 1);
  const int64_t rows = x.shape().rows();
  const int64_t D = x.dim(-1);
  Tensor y = tape.empty(without_last(x.shape()), x.dtype());
  tape.run(sum_last_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(),
                   [&]<class T>() { kernels::sum_columns<T>(rows, D, x.data<T>(), y.data<T>()); });
  });
  tape.record(sum_last_info(), {x}, {&y}, {}, [rows, D](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::put_rows<T>(rows, D, grad_y.data<T>(), gradient<T>(grad_x));
      });
    });
  });
  return y;
}

}  // namespace sluice
