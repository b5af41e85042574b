#include "autograd/ops/top_k.h"

#include "autograd/kernels/top_k.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

OpSample top_k_sample(std::string label, const Tensor& x, int64_t k) {
  return {.label = std::move(label),
          .inputs = {x},
          .differentiable = {true},
          .apply = [k](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {top_k(tape, in[0], k).values};
          }};
}

OpSample gather_sample(std::string label, const Tensor& x, const Tensor& index) {
  return {.label = std::move(label),
          .inputs = {x, index},
          .differentiable = {true, false},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {gather_last(tape, in[0], in[1])};
          }};
}

OpSample scatter_sample(std::string label, const Tensor& x, const Tensor& index) {
  return {.label = std::move(label),
          .inputs = {x, index},
          .differentiable = {true, false},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {scatter_last(tape, in[0], in[1], 4)};
          }};
}

/// The gradient of chosen elements of x [N, E] goes back to where they came from.
void scatter_back(Backward& b) {
  const Tensor grad_y = b.grad(0);
  GradTarget grad_x = b.target(0);
  b.run(moving({b.saved(0), grad_y, grad_x.tensor}), [&] {
    dispatch_float(grad_y.dtype(), [&]<class T>() {
      kernels::gather_columns_backward<T>(grad_y.dim(0), {.E = grad_x.tensor.dim(1),
                                                          .slots = grad_y.dim(1),
                                                          .index = b.saved(0).data<int32_t>(),
                                                          .grad_y = grad_y.data<T>(),
                                                          .grad_x = gradient<T>(grad_x)});
    });
  });
}

void check_index(std::string_view op, const Tensor& index, int64_t E) {
  if (!index.has_memory()) return;
  for (const int32_t chosen : index.span<int32_t>()) {
    SLUICE_CHECK(ShapeError, chosen < E, "{}: index {} is past the last dimension of x, {}", op,
                 chosen, E);
  }
}

}  // namespace

const OpInfo& top_k_info() {
  static constexpr OpInfo kInfo{"top_k", "y[n, j] = j-th largest of x[n, :]",
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  return {top_k_sample("2 of 7", make.uniform({5, 7}), 2),
                                          top_k_sample("all of 4", make.uniform({3, 4}), 4),
                                          top_k_sample("1 of 1", make.uniform({3, 1}), 1),
                                          top_k_sample("40 of 50", make.uniform({2, 50}), 40),
                                          top_k_sample("no rows", make.uniform({0, 4}), 2)};
                                },
                                [](SampleFactory& make) -> std::vector<OpSample> {
                                  return {
                                      top_k_sample("more than there are", make.uniform({5, 7}), 8),
                                      top_k_sample("none", make.uniform({5, 7}), 0),
                                      top_k_sample("a vector", make.uniform({7}), 1)};
                                }};
  return kInfo;
}

TopKResult top_k(Tape& tape, const Tensor& x, int64_t k) {
  check_floating("top_k", "x", x);
  check_rank("top_k", "x", x, 2, "[N, E]");
  SLUICE_CHECK(ShapeError, k >= 1 && k <= x.dim(1), "top_k: k is {} but x is {}; allowed 1 to {}",
               k, x.shape(), x.dim(1));
  TopKResult result{tape.empty({x.dim(0), k}, x.dtype()), tape.empty({x.dim(0), k}, DType::i32)};
  tape.run(top_k_info(), moving({x, result.values, result.indices}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::top_k<T>(x.dim(0), {.E = x.dim(1),
                                   .k = k,
                                   .scores = x.data<T>(),
                                   .values = result.values.data<T>(),
                                   .indices = result.indices.data<int32_t>()});
    });
  });
  tape.record(top_k_info(), {x}, {&result.values}, {result.indices},
              [](Backward& b) { scatter_back(b); });
  return result;
}

const OpInfo& gather_last_info() {
  static constexpr OpInfo kInfo{
      "gather_last", "y[n, j] = x[n, index[n, j]]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {gather_sample("repeated and empty", make.uniform({3, 4}),
                              make.integers({3, 2}, {1, 1, -1, 0, 3, -1})),
                gather_sample("no rows", make.uniform({0, 4}), make.integers({0, 2}, {}))};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {gather_sample("past the end", make.uniform({1, 4}), make.integers({1, 1}, {4})),
                gather_sample("fewer rows", make.uniform({2, 4}), make.integers({1, 1}, {0})),
                gather_sample("index a vector", make.uniform({2, 4}), make.integers({2}, {0, 1}))};
      }};
  return kInfo;
}

Tensor gather_last(Tape& tape, const Tensor& x, const Tensor& index) {
  check_floating("gather_last", "x", x);
  check_dtype("gather_last", "index", index, DType::i32);
  check_rank("gather_last", "x", x, 2, "[N, E]");
  check_rank("gather_last", "index", index, 2, "[N, k]");
  SLUICE_CHECK(ShapeError, x.dim(0) == index.dim(0),
               "gather_last: x is {} but index is {}; rows {} and {} differ", x.shape(),
               index.shape(), x.dim(0), index.dim(0));
  check_index("gather_last", index, x.dim(1));
  Tensor y = tape.empty(index.shape(), x.dtype());
  tape.run(gather_last_info(), moving({x, index, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::gather_columns<T>(x.dim(0), x.dim(1), index.dim(1), index.data<int32_t>(),
                                 x.data<T>(), y.data<T>());
    });
  });
  tape.record(gather_last_info(), {x}, {&y}, {index}, [](Backward& b) { scatter_back(b); });
  return y;
}

const OpInfo& scatter_last_info() {
  static constexpr OpInfo kInfo{
      "scatter_last", "y[n, index[n, j]] += x[n, j]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {scatter_sample("repeated and empty", make.uniform({3, 2}),
                               make.integers({3, 2}, {1, 1, -1, 0, 3, -1})),
                scatter_sample("no rows", make.uniform({0, 2}), make.integers({0, 2}, {}))};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {scatter_sample("past the end", make.uniform({1, 1}), make.integers({1, 1}, {4})),
                scatter_sample("fewer rows", make.uniform({2, 1}), make.integers({1, 1}, {0})),
                scatter_sample("a vector", make.uniform({2}), make.integers({2}, {0, 1}))};
      }};
  return kInfo;
}

Tensor scatter_last(Tape& tape, const Tensor& x, const Tensor& index, int64_t E) {
  check_floating("scatter_last", "x", x);
  check_dtype("scatter_last", "index", index, DType::i32);
  check_rank("scatter_last", "x", x, 2, "[N, k]");
  check_shape("scatter_last", "index", index, x.shape());
  check_index("scatter_last", index, E);
  Tensor y = tape.empty({x.dim(0), E}, x.dtype());
  tape.run(scatter_last_info(), moving({x, index, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::gather_columns_backward<T>(x.dim(0), {.E = E,
                                                     .slots = x.dim(1),
                                                     .index = index.data<int32_t>(),
                                                     .grad_y = x.data<T>(),
                                                     .grad_x = {y.data<T>(), false}});
    });
  });
  tape.record(scatter_last_info(), {x}, {&y}, {index}, [E](Backward& b) {
    const Tensor grad_y = b.grad(0);
    const Tensor& chosen = b.saved(0);
    Tensor grad_x = b.empty(chosen.shape(), grad_y.dtype());
    b.run(moving({chosen, grad_y, grad_x}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::gather_columns<T>(chosen.dim(0), E, chosen.dim(1), chosen.data<int32_t>(),
                                   grad_y.data<T>(), grad_x.data<T>());
      });
    });
    b.pass(0, grad_x);
  });
  return y;
}

}  // namespace sluice
