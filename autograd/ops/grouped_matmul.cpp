#include "autograd/ops/grouped_matmul.h"

#include "autograd/kernels/grouped_gemm.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "grouped_matmul";

OpSample sample(std::string label, SampleFactory& make, const Shape& x, const Shape& weight,
                const std::vector<int32_t>& offsets) {
  return {.label = std::move(label),
          .inputs = {make.uniform(x), make.uniform(weight),
                     make.integers({static_cast<int64_t>(offsets.size())}, offsets)},
          .differentiable = {true, true, false},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {grouped_matmul(tape, in[0], in[1], in[2])};
          }};
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {sample("uneven", make, {9, 5}, {3, 4, 5}, {0, 2, 3, 9}),
          sample("empty experts", make, {4, 3}, {4, 2, 3}, {0, 0, 4, 4, 4}),
          sample("one expert", make, {3, 2}, {1, 5, 2}, {0, 3}),
          sample("no rows", make, {0, 2}, {2, 3, 2}, {0, 0, 0})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  return {sample("widths differ", make, {9, 5}, {3, 4, 6}, {0, 2, 3, 9}),
          sample("too few offsets", make, {9, 5}, {3, 4, 5}, {0, 2, 9}),
          sample("offsets end early", make, {9, 5}, {3, 4, 5}, {0, 2, 3, 8}),
          sample("offsets decrease", make, {9, 5}, {3, 4, 5}, {0, 4, 3, 9}),
          sample("weight of two dimensions", make, {9, 5}, {4, 5}, {0, 9})};
}

KernelCost cost_of(const kernels::Groups& groups, int64_t rows, const Tensor& a, const Tensor& b,
                   const Tensor& c) {
  KernelCost cost = moving({a, b, c});
  cost.flops = 2.0 * static_cast<double>(rows) * static_cast<double>(groups.I) *
               static_cast<double>(groups.O);
  return cost;
}

/// The groups of a call, from its tensors.
kernels::Groups groups_of(const Tensor& weight, const Tensor& offsets) {
  return {weight.dim(0), offsets.has_memory() ? offsets.data<int32_t>() : nullptr, weight.dim(2),
          weight.dim(1)};
}

}  // namespace

const OpInfo& grouped_matmul_info() {
  static constexpr OpInfo kInfo{kOp, "y[r, o] = sum_i x[r, i] weight[e(r), o, i]", samples,
                                misuses};
  return kInfo;
}

Tensor grouped_matmul(Tape& tape, const Tensor& x, const Tensor& weight, const Tensor& offsets) {
  check_weight(tape, kOp, {"x", x}, {"weight", weight});
  check_rank(kOp, "x", x, 2, "[R, I]");
  check_rank(kOp, "weight", weight, 3, "[E, O, I]");
  SLUICE_CHECK(ShapeError, x.dim(1) == weight.dim(2),
               "{}: x is {} but weight is {}; last dimensions {} and {} differ", kOp, x.shape(),
               weight.shape(), x.dim(1), weight.dim(2));
  check_expert_offsets(kOp, offsets, weight.dim(0), x.dim(0));
  const int64_t rows = x.dim(0);
  Tensor y = tape.empty({rows, weight.dim(1)}, x.dtype());
  const kernels::Groups groups = groups_of(weight, offsets);
  tape.run(grouped_matmul_info(), cost_of(groups, rows, x, weight, y), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::grouped_gemm<T>(groups, x.data<T>(), stored<T>(weight), y.data<T>());
    });
  });
  // The weight is saved for its shape too.
  tape.record(grouped_matmul_info(), {x, weight}, {&y},
              {saved_for(tape, weight, x), weight, offsets}, [rows](Backward& b) {
                const Tensor grad_y = b.grad(0);
                const Tensor& weight_ = b.saved(1);
                const kernels::Groups groups_ = groups_of(weight_, b.saved(2));
                if (b.needs(0)) {
                  GradTarget grad_x = b.target(0);
                  b.run(cost_of(groups_, rows, grad_y, weight_, grad_x.tensor), [&] {
                    dispatch_float(grad_y.dtype(), [&]<class T>() {
                      kernels::grouped_gemm_grad_x<T>(groups_, grad_y.data<T>(), weight_.data<T>(),
                                                      gradient<T>(grad_x));
                    });
                  });
                }
                if (b.needs(1)) {
                  GradTarget grad_weight = b.target(1);
                  b.run(cost_of(groups_, rows, grad_y, b.saved(0), grad_weight.tensor), [&] {
                    dispatch_float(grad_y.dtype(), [&]<class T>() {
                      kernels::grouped_gemm_grad_weight<T>(groups_, {grad_y.data<T>()},
                                                           {b.saved(0).data<T>()},
                                                           gradient<T>(grad_weight));
                    });
                  });
                }
              });
  return y;
}

}  // namespace sluice
