#include "autograd/ops/dispatch_combine.h"

#include <limits>

#include "autograd/kernels/permute_tokens.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

/// Four tokens with two slots each over three experts; expert 1 has no token.
DispatchPlan sample_plan(SampleFactory& make, bool with_drops) {
  const std::vector<int32_t> all{2, 0, 0, 2, 2, 0, 0, 2};
  const std::vector<int32_t> some{2, 0, -1, -1, 2, -1, 0, 2};
  return make_dispatch_plan(make.pool(), with_drops ? some : all, 4, 2, 3);
}

OpSample dispatch_sample(std::string label, const Tensor& x, const DispatchPlan& plan) {
  return {.label = std::move(label),
          .inputs = {x},
          .differentiable = {true},
          .apply = [plan](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {dispatch(tape, in[0], plan)};
          }};
}

OpSample combine_sample(std::string label, std::vector<Tensor> inputs, const DispatchPlan& plan) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = {true, true},
          .apply = [plan](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {combine(tape, in[0], in[1], plan)};
          }};
}

}  // namespace

DispatchPlan make_dispatch_plan(Pool& pool, std::span<const int32_t> expert, int64_t tokens,
                                int64_t top_k, int64_t experts) {
  const int64_t slots = tokens * top_k;
  SLUICE_CHECK(ShapeError, static_cast<int64_t>(expert.size()) == slots,
               "dispatch: {} experts for {} tokens with {} slots each, expected {}", expert.size(),
               tokens, top_k, slots);
  SLUICE_CHECK(ShapeError, slots <= std::numeric_limits<int32_t>::max(),
               "dispatch: {} assignments, allowed up to {}", slots,
               std::numeric_limits<int32_t>::max());
  const kernels::Assignments assignments{
      .N = tokens, .k = top_k, .E = experts, .expert = expert.data()};
  ArenaScope scratch(thread_arena());
  const std::span<int32_t> offsets(scratch.allocate<int32_t>(experts + 1),
                                   static_cast<size_t>(experts) + 1);
  kernels::count_by_expert(assignments, offsets.data());
  const int64_t R = offsets.back();
  DispatchPlan plan{Tensor::of<int32_t>(pool, {experts + 1}, std::span<const int32_t>(offsets)),
                    Tensor::empty(pool, {R}, DType::i32), Tensor::empty(pool, {R}, DType::i32),
                    Tensor::empty(pool, {tokens, top_k}, DType::i32)};
  if (pool.shapes_only()) return plan;
  kernels::order_by_expert(assignments, offsets.data(),
                           {.token_of_row = plan.token_of_row.data<int32_t>(),
                            .slot_of_row = plan.slot_of_row.data<int32_t>(),
                            .row_of_slot = plan.row_of_slot.data<int32_t>()});
  return plan;
}

const OpInfo& dispatch_info() {
  static constexpr OpInfo kInfo{
      "dispatch", "y[r, d] = x[token_of_row[r], d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {dispatch_sample("all", make.uniform({4, 5}), sample_plan(make, false)),
                dispatch_sample("with drops", make.uniform({4, 5}), sample_plan(make, true)),
                dispatch_sample("no tokens", make.uniform({0, 5}),
                                make_dispatch_plan(make.pool(), {}, 0, 2, 3))};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {dispatch_sample("other tokens", make.uniform({3, 5}), sample_plan(make, false)),
                dispatch_sample("a vector", make.uniform({4}), sample_plan(make, false))};
      }};
  return kInfo;
}

Tensor dispatch(Tape& tape, const Tensor& x, const DispatchPlan& plan) {
  check_floating("dispatch", "x", x);
  check_rank("dispatch", "x", x, 2, "[N, D]");
  SLUICE_CHECK(ShapeError, x.dim(0) == plan.row_of_slot.dim(0),
               "dispatch: x is {} but the plan is for {} tokens", x.shape(),
               plan.row_of_slot.dim(0));
  const int64_t R = plan.token_of_row.dim(0);
  Tensor y = tape.empty({R, x.dim(1)}, x.dtype());
  tape.run(dispatch_info(), moving({x, plan.token_of_row, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::gather_rows<T>(R, x.dim(1), plan.token_of_row.data<int32_t>(), x.data<T>(),
                              y.data<T>());
    });
  });
  tape.record(dispatch_info(), {x}, {&y}, {plan.row_of_slot}, [](Backward& b) {
    const Tensor grad_y = b.grad(0);
    GradTarget grad_x = b.target(0);
    b.run(moving({b.saved(0), grad_y, grad_x.tensor}), [&] {
      dispatch_float(grad_y.dtype(), [&]<class T>() {
        kernels::combine_rows<T>(grad_x.tensor.dim(0), grad_x.tensor.dim(1),
                                 {.k = b.saved(0).dim(1),
                                  .row_of_slot = b.saved(0).data<int32_t>(),
                                  .weight = nullptr,
                                  .rows = grad_y.data<T>()},
                                 gradient<T>(grad_x));
      });
    });
  });
  return y;
}

const OpInfo& combine_info() {
  static constexpr OpInfo kInfo{
      "combine", "y[n, d] = sum_j weights[n, j] x[row_of_slot[n, j], d]",
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {combine_sample("all", {make.uniform({8, 5}), make.uniform({4, 2})},
                               sample_plan(make, false)),
                combine_sample("with drops", {make.uniform({5, 5}), make.uniform({4, 2})},
                               sample_plan(make, true)),
                combine_sample("no tokens", {make.uniform({0, 5}), make.uniform({0, 2})},
                               make_dispatch_plan(make.pool(), {}, 0, 2, 3))};
      },
      [](SampleFactory& make) -> std::vector<OpSample> {
        return {combine_sample("other rows", {make.uniform({7, 5}), make.uniform({4, 2})},
                               sample_plan(make, false)),
                combine_sample("other weights", {make.uniform({8, 5}), make.uniform({4, 3})},
                               sample_plan(make, false))};
      }};
  return kInfo;
}

Tensor combine(Tape& tape, const Tensor& x, const Tensor& weights, const DispatchPlan& plan) {
  check_same_dtype("combine", {"x", x}, {"weights", weights});
  check_rank("combine", "x", x, 2, "[R, D]");
  check_shape("combine", "weights", weights, plan.row_of_slot.shape());
  SLUICE_CHECK(ShapeError, x.dim(0) == plan.token_of_row.dim(0),
               "combine: x is {} but the plan is for {} rows", x.shape(), plan.token_of_row.dim(0));
  const int64_t N = weights.dim(0);
  const int64_t D = x.dim(1);
  Tensor y = tape.empty({N, D}, x.dtype());
  tape.run(combine_info(), moving({x, weights, plan.row_of_slot, y}), [&] {
    dispatch_float(x.dtype(), [&]<class T>() {
      kernels::combine_rows<T>(N, D,
                               {.k = weights.dim(1),
                                .row_of_slot = plan.row_of_slot.data<int32_t>(),
                                .weight = weights.data<T>(),
                                .rows = x.data<T>()},
                               {.data = y.data<T>(), .accumulate = false});
    });
  });
  tape.record(combine_info(), {x, weights}, {&y},
              {saved_for(tape, weights, x), saved_for(tape, x, weights), plan.row_of_slot},
              [](Backward& b) {
                const Tensor grad_y = b.grad(0);
                GradTarget grad_x = wanted_target(b, 0);
                GradTarget grad_weights = wanted_target(b, 1);
                b.run(moving({b.saved(0), b.saved(1), b.saved(2), grad_y, grad_x.tensor}), [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    kernels::combine_rows_backward<T>(
                        grad_y.dim(0), grad_y.dim(1),
                        {.k = b.saved(2).dim(1),
                         .row_of_slot = b.saved(2).data<int32_t>(),
                         .weight = b.needs(0) ? b.saved(1).data<T>() : nullptr,
                         .rows = b.needs(1) ? b.saved(0).data<T>() : nullptr},
                        {.grad_y = grad_y.data<T>(),
                         .grad_rows = gradient<T>(grad_x),
                         .grad_weight = gradient<T>(grad_weights)});
                  });
                });
              });
  return y;
}

}  // namespace sluice
