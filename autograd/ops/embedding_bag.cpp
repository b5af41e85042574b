#include "autograd/ops/embedding_bag.h"

#include "autograd/kernels/embedding_bag.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

/// N tokens of k entries in a table of V rows of width D.
struct BagShape {
  int64_t N;
  int64_t k;
  int64_t V;
  int64_t D;
};

BagShape check_bag(std::string_view op, const Tensor& table, const Tensor& ids) {
  check_floating(op, "table", table);
  check_dtype(op, "ids", ids, DType::i32);
  check_rank(op, "table", table, 2, "[V, D]");
  check_rank(op, "ids", ids, 2, "[N, k]");
  const int64_t V = table.dim(0);
  if (ids.has_memory()) {
    const auto all = ids.span<int32_t>();
    for (size_t i = 0; i < all.size(); ++i) {
      SLUICE_CHECK(ShapeError, all[i] >= 0 && all[i] < V,
                   "{}: entry {} has id {}, allowed 0 to {} (rows of table)", op, i, all[i], V - 1);
    }
  }
  return {ids.dim(0), ids.dim(1), V, table.dim(1)};
}

/// Every entry reads a row; a token reads or writes one.
KernelCost cost_of(const BagShape& s, const Tensor& per_token) {
  KernelCost cost = moving({per_token});
  const auto numbers = static_cast<double>(s.N * s.k * s.D);
  cost.flops = 2.0 * numbers;
  cost.bytes += numbers * static_cast<double>(size_of(per_token.dtype()));
  return cost;
}

OpSample bag_sample(std::string label, std::vector<Tensor> inputs) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = {true, false, true},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {embedding_bag(tape, in[0], in[1], in[2])};
          }};
}

OpSample dots_sample(std::string label, std::vector<Tensor> inputs) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = {true, true, false},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {embedding_dots(tape, in[0], in[1], in[2])};
          }};
}

template <class T>
kernels::BagTableGradient<T> table_gradient(const BagShape& s, const Tensor& ids,
                                            const Tensor& weight, const Tensor& x,
                                            GradTarget& grad) {
  return {.V = s.V,
          .k = s.k,
          .id = ids.data<int32_t>(),
          .weight = weight.data<T>(),
          .x = x.data<T>(),
          .grad_table = gradient<T>(grad)};
}

}  // namespace

const OpInfo& embedding_bag_info() {
  static constexpr OpInfo kInfo{
      "embedding_bag", "y[n, d] = sum_j weights[n, j] table[ids[n, j], d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {bag_sample("repeated ids",
                           {make.uniform({6, 5}), make.integers({2, 3}, {3, 0, 3, 5, 0, 1}),
                            make.uniform({2, 3})}),
                bag_sample("[40, 3]", {make.uniform({40, 3}), make.random_integers({12, 4}, 40),
                                       make.uniform({12, 4})}),
                bag_sample("no tokens", {make.uniform({6, 5}), make.integers({0, 2}, {}),
                                         make.uniform({0, 2})})};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {bag_sample("id too large", {make.uniform({6, 5}), make.integers({1, 2}, {0, 6}),
                                            make.uniform({1, 2})}),
                bag_sample("other weights", {make.uniform({6, 5}), make.integers({1, 2}, {0, 1}),
                                             make.uniform({2, 2})}),
                bag_sample("ids in a row",
                           {make.uniform({6, 5}), make.integers({2}, {0, 1}), make.uniform({2})})};
      }};
  return kInfo;
}

Tensor embedding_bag(Tape& tape, const Tensor& table, const Tensor& ids, const Tensor& weights) {
  const OpInfo& op = embedding_bag_info();
  const BagShape s = check_bag(op.name, table, ids);
  check_same_dtype(op.name, {"table", table}, {"weights", weights});
  check_shape(op.name, "weights", weights, ids.shape());
  Tensor y = tape.empty({s.N, s.D}, table.dtype());
  tape.run(op, cost_of(s, y), [&] {
    dispatch_float(y.dtype(), [&]<class T>() {
      kernels::bag_sum<T>(s.N, s.D, {s.k, ids.data<int32_t>(), weights.data<T>(), table.data<T>()},
                          {y.data<T>(), false});
    });
  });
  tape.record(op, {table, weights}, {&y}, {table, ids, weights}, [s](Backward& b) {
    const Tensor grad_y = b.grad(0);
    const Tensor& ids_ = b.saved(1);
    if (b.needs(0)) {
      GradTarget grad_table = b.target(0);
      b.run(cost_of(s, grad_y), [&] {
        dispatch_float(grad_y.dtype(), [&]<class T>() {
          kernels::bag_table_gradient<T>(
              s.N, s.D, table_gradient<T>(s, ids_, b.saved(2), grad_y, grad_table));
        });
      });
    }
    if (b.needs(1)) {
      GradTarget grad_weights = b.target(1);
      b.run(cost_of(s, grad_y), [&] {
        dispatch_float(grad_y.dtype(), [&]<class T>() {
          kernels::bag_dots<T>(s.N, s.D,
                               {s.k, ids_.data<int32_t>(), grad_y.data<T>(), b.saved(0).data<T>()},
                               gradient<T>(grad_weights));
        });
      });
    }
  });
  return y;
}

const OpInfo& embedding_dots_info() {
  static constexpr OpInfo kInfo{
      "embedding_dots", "z[n, j] = sum_d x[n, d] table[ids[n, j], d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {dots_sample("repeated ids", {make.uniform({2, 5}), make.uniform({6, 5}),
                                             make.integers({2, 3}, {3, 0, 3, 5, 0, 1})}),
                dots_sample("[40, 3]", {make.uniform({12, 3}), make.uniform({40, 3}),
                                        make.random_integers({12, 4}, 40)}),
                dots_sample("no tokens", {make.uniform({0, 5}), make.uniform({6, 5}),
                                          make.integers({0, 2}, {})})};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {dots_sample("negative id", {make.uniform({1, 5}), make.uniform({6, 5}),
                                            make.integers({1, 2}, {0, -1})}),
                dots_sample("other width", {make.uniform({1, 4}), make.uniform({6, 5}),
                                            make.integers({1, 2}, {0, 1})})};
      }};
  return kInfo;
}

Tensor embedding_dots(Tape& tape, const Tensor& x, const Tensor& table, const Tensor& ids) {
  const OpInfo& op = embedding_dots_info();
  const BagShape s = check_bag(op.name, table, ids);
  check_same_dtype(op.name, {"x", x}, {"table", table});
  check_shape(op.name, "x", x, {s.N, s.D});
  Tensor z = tape.empty({s.N, s.k}, table.dtype());
  tape.run(op, cost_of(s, x), [&] {
    dispatch_float(z.dtype(), [&]<class T>() {
      kernels::bag_dots<T>(s.N, s.D, {s.k, ids.data<int32_t>(), x.data<T>(), table.data<T>()},
                           {z.data<T>(), false});
    });
  });
  tape.record(op, {x, table}, {&z}, {x, table, ids}, [s](Backward& b) {
    const Tensor grad_z = b.grad(0);
    const Tensor& ids_ = b.saved(2);
    if (b.needs(0)) {
      GradTarget grad_x = b.target(0);
      b.run(cost_of(s, b.saved(0)), [&] {
        dispatch_float(grad_z.dtype(), [&]<class T>() {
          kernels::bag_sum<T>(s.N, s.D,
                              {s.k, ids_.data<int32_t>(), grad_z.data<T>(), b.saved(1).data<T>()},
                              gradient<T>(grad_x));
        });
      });
    }
    if (b.needs(1)) {
      GradTarget grad_table = b.target(1);
      b.run(cost_of(s, b.saved(0)), [&] {
        dispatch_float(grad_z.dtype(), [&]<class T>() {
          kernels::bag_table_gradient<T>(
              s.N, s.D, table_gradient<T>(s, ids_, grad_z, b.saved(0), grad_table));
        });
      });
    }
  });
  return z;
}

}  // namespace sluice
