#include "autograd/ops/softmax.h"

#include "autograd/kernels/reduce.h"
#include "autograd/kernels/softmax.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

using RowOp = Tensor (*)(Tape&, const Tensor&);

OpSample row_sample(std::string label, const Tensor& x, RowOp op) {
  return {.label = std::move(label),
          .inputs = {x},
          .differentiable = {true},
          .apply = [op](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {op(tape, in[0])};
          }};
}

template <RowOp op>
std::vector<OpSample> row_samples(SampleFactory& make) {
  return {row_sample("[5, 7]", make.uniform({5, 7}, 0.1, 2.0), op),
          row_sample("[2, 3, 33]", make.uniform({2, 3, 33}, 0.1, 2.0), op),
          row_sample("[3, 1]", make.uniform({3, 1}, 0.1, 2.0), op),
          row_sample("no rows", make.uniform({0, 4}), op)};
}

template <RowOp op>
std::vector<OpSample> row_misuses(SampleFactory& make) {
  return {row_sample("a scalar", make.uniform({}), op),
          row_sample("empty row", make.uniform({3, 0}), op)};
}

Tensor normalise_sample(Tape& tape, const Tensor& x) { return normalise_rows(tape, x, 1e-20); }

void check_row(std::string_view op, const Tensor& x) {
  check_floating(op, "x", x);
  check_min_rank(op, "x", x, 1);
  SLUICE_CHECK(ShapeError, x.dim(-1) > 0, "{}: x is {}, expected a last dimension of at least 1",
               op, x.shape());
}

}  // namespace

const OpInfo& softmax_info() {
  static constexpr OpInfo kInfo{"softmax", "y[..., e] = e^x[..., e] / sum_j e^x[..., j]",
                                row_samples<softmax>, row_misuses<softmax>};
  return kInfo;
}

Tensor softmax(Tape& tape, const Tensor& x) {
  check_row("softmax", x);
  const int64_t rows = x.shape().rows();
  const int64_t E = x.dim(-1);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(softmax_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(),
                   [&]<class T>() { kernels::softmax<T>(rows, E, x.data<T>(), y.data<T>()); });
  });
  tape.record(softmax_info(), {x}, {&y}, {y}, [rows, E](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({b.saved(0), grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::softmax_backward<T>(rows, E, b.saved(0).data<T>(), grad_y.data<T>(),
                                     gradient<T>(grad_x));
      });
    });
  });
  return y;
}

const OpInfo& log_softmax_info() {
  static constexpr OpInfo kInfo{"log_softmax", "y[..., e] = x[..., e] - ln sum_j e^x[..., j]",
                                row_samples<log_softmax>, row_misuses<log_softmax>};
  return kInfo;
}

Tensor log_softmax(Tape& tape, const Tensor& x) {
  check_row("log_softmax", x);
  const int64_t rows = x.shape().rows();
  const int64_t E = x.dim(-1);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(log_softmax_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(),
                   [&]<class T>() { kernels::log_softmax<T>(rows, E, x.data<T>(), y.data<T>()); });
  });
  tape.record(log_softmax_info(), {x}, {&y}, {y}, [rows, E](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({b.saved(0), grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::log_softmax_backward<T>(rows, E, b.saved(0).data<T>(), grad_y.data<T>(),
                                         gradient<T>(grad_x));
      });
    });
  });
  return y;
}

const OpInfo& logsumexp_info() {
  static constexpr OpInfo kInfo{"logsumexp", "y[...] = ln sum_e e^x[..., e]",
                                row_samples<logsumexp>, row_misuses<logsumexp>};
  return kInfo;
}

Tensor logsumexp(Tape& tape, const Tensor& x) {
  check_row("logsumexp", x);
  const int64_t rows = x.shape().rows();
  const int64_t E = x.dim(-1);
  Tensor y = tape.empty(without_last(x.shape()), x.dtype());
  tape.run(logsumexp_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(),
                   [&]<class T>() { kernels::log_sum_exp<T>(rows, E, x.data<T>(), y.data<T>()); });
  });
  tape.record(logsumexp_info(), {x}, {&y}, {x, y}, [rows, E](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({b.saved(0), grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::log_sum_exp_backward<T>(rows, E,
                                         {.x = b.saved(0).data<T>(),
                                          .lse = b.saved(1).data<T>(),
                                          .grad_lse = grad_y.data<T>(),
                                          .grad_x = gradient<T>(grad_x)});
      });
    });
  });
  return y;
}

const OpInfo& normalise_rows_info() {
  static constexpr OpInfo kInfo{"normalise_rows", "y[..., e] = x[..., e] / (sum_j x[..., j] + eps)",
                                row_samples<normalise_sample>, row_misuses<normalise_sample>};
  return kInfo;
}

Tensor normalise_rows(Tape& tape, const Tensor& x, double eps) {
  check_row("normalise_rows", x);
  const int64_t rows = x.shape().rows();
  const int64_t E = x.dim(-1);
  Tensor y = tape.empty(x.shape(), x.dtype());
  Tensor total = tape.empty({rows}, x.dtype());
  tape.run(normalise_rows_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::normalise_rows<T>(
          rows, E, {.x = x.data<T>(), .epsilon = eps, .y = y.data<T>(), .total = total.data<T>()});
    });
  });
  tape.record(normalise_rows_info(), {x}, {&y}, {y, total}, [rows, E](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({b.saved(0), grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::normalise_rows_backward<T>(rows, E,
                                            {.y = b.saved(0).data<T>(),
                                             .total = b.saved(1).data<T>(),
                                             .grad_y = grad_y.data<T>(),
                                             .grad_x = gradient<T>(grad_x)});
      });
    });
  });
  return y;
}

}  // namespace sluice
