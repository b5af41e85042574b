#include "autograd/ops/running_mean.h"

#include <array>

#include "autograd/kernels/running_mean.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "running_mean";

OpSample sample(std::string label, Tensor x, std::vector<int64_t> documents) {
  return {.label = std::move(label),
          .inputs = {std::move(x)},
          .differentiable = {true},
          .apply = [documents = std::move(documents)](Tape& tape, std::span<const Tensor> in)
              -> std::vector<Tensor> { return {running_mean(tape, in[0], documents)}; }};
}

}  // namespace

const OpInfo& running_mean_info() {
  static constexpr OpInfo kInfo{
      kOp, "y[t, d] = mean over s <= t of t's document of x[s, d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("one document", make.uniform({5, 3}), {0, 5}),
                sample("packed documents", make.uniform({9, 70}), {0, 1, 1, 6, 9}),
                sample("no token", make.uniform({0, 3}), {0})};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {sample("documents end early", make.uniform({5, 3}), {0, 4}),
                sample("one row of numbers", make.uniform({5}), {0, 5})};
      }};
  return kInfo;
}

Tensor running_mean(Tape& tape, const Tensor& x, std::span<const int64_t> documents) {
  check_floating(kOp, "x", x);
  check_rank(kOp, "x", x, 2, "[N, D]");
  const int64_t end = documents.empty() ? 0 : documents.back();
  SLUICE_CHECK(ShapeError, end == x.dim(0), "{}: documents end at token {}, x has {} tokens", kOp,
               end, x.dim(0));
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(running_mean_info(), moving({x, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::running_mean<T>(x.dim(1), documents, x.data<T>(), y.data<T>());
    });
  });
  tape.record(running_mean_info(), {x}, {&y}, {}, [documents](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::running_mean_backward<T>(grad_y.dim(1), documents, grad_y.data<T>(),
                                          gradient<T>(grad_x));
      });
    });
  });
  return y;
}

Tensor running_mean_step(Tape& tape, const Tensor& x, std::span<double> sums, int64_t count) {
  check_floating("running_mean_step", "x", x);
  check_shape("running_mean_step", "x", x, {x.dim(0), std::ssize(sums)});
  const NoGrad no_grad(tape);
  Tensor y = tape.empty(x.shape(), x.dtype());
  tape.run(running_mean_info(), moving({x, y}), [&] {
    const std::array<int64_t, 2> documents{0, x.dim(0)};
    const kernels::RunningSums state{sums.data(), count};
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::running_mean<T>(x.dim(1), documents, x.data<T>(), y.data<T>(), &state);
    });
  });
  return y;
}

}  // namespace sluice
