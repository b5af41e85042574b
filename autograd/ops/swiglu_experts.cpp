#include "autograd/ops/swiglu_experts.h"

#include <array>

#include "autograd/kernels/grouped_gemm.h"
#include "autograd/kernels/permute_tokens.h"
#include "autograd/kernels/swiglu_experts.h"
#include "autograd/ops/common.h"

namespace sluice {

const OpInfo& swiglu_experts_info();
const OpInfo& swiglu_feed_forward_info();
const OpInfo& combine_info();

namespace {

constexpr std::string_view kOp = "swiglu_experts";
constexpr std::string_view kFeedForward = "swiglu_feed_forward";

enum Input { kX, kGate, kUp, kDown, kWeights };
enum Saved { kOffsets = kWeights + 1, kTokenOfRow, kSlotOfRow, kRowOfSlot, kHiddenGate, kHiddenUp };

OpSample routed_sample(std::string label, SampleFactory& make, int64_t tokens, int64_t k, int64_t E,
                       const std::vector<int32_t>& expert) {
  constexpr int64_t kD = 5, kF = 3;
  const DispatchPlan plan = make_dispatch_plan(make.pool(), expert, tokens, k, E);
  return {
      .label = std::move(label),
      .inputs = {make.uniform({tokens, kD}), make.uniform({E, kF, kD}), make.uniform({E, kF, kD}),
                 make.uniform({E, kD, kF}), make.uniform({tokens, k})},
      .differentiable = {true, true, true, true, true},
      .apply = [plan](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
        return {swiglu_experts(tape, in[kX], {in[kGate], in[kUp], in[kDown]}, in[kWeights], plan)};
      }};
}

OpSample plain_sample(std::string label, SampleFactory& make, const Shape& x, const Shape& gate,
                      const Shape& down, const std::vector<int32_t>& offsets) {
  return {.label = std::move(label),
          .inputs = {make.uniform(x), make.uniform(gate), make.uniform(gate), make.uniform(down),
                     make.integers({static_cast<int64_t>(offsets.size())}, offsets)},
          .differentiable = {true, true, true, true, false},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {swiglu_experts(tape, in[kX], {in[kGate], in[kUp], in[kDown]}, in[4])};
          }};
}

std::vector<OpSample> samples(SampleFactory& make) {
  return {routed_sample("all", make, 4, 2, 3, {2, 0, 0, 2, 2, 0, 0, 2}),
          routed_sample("with drops", make, 4, 2, 3, {2, 0, -1, -1, 2, -1, 0, 2}),
          routed_sample("no tokens", make, 0, 2, 3, {}),
          plain_sample("one expert", make, {4, 3}, {1, 6, 3}, {1, 3, 6}, {0, 4}),
          plain_sample("empty experts", make, {4, 3}, {3, 2, 3}, {3, 3, 2}, {0, 0, 4, 4})};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  return {plain_sample("widths differ", make, {4, 5}, {1, 6, 3}, {1, 3, 6}, {0, 4}),
          plain_sample("down is not the transpose", make, {4, 3}, {1, 6, 3}, {1, 6, 3}, {0, 4}),
          plain_sample("matrices of two dimensions", make, {4, 3}, {6, 3}, {3, 6}, {0, 4}),
          plain_sample("offsets end early", make, {4, 3}, {1, 6, 3}, {1, 3, 6}, {0, 3}),
          plain_sample("offsets decrease", make, {4, 3}, {2, 6, 3}, {2, 3, 6}, {0, 5, 4})};
}

OpSample feed_forward_sample(std::string label, SampleFactory& make, const Shape& x,
                             const Shape& gate, const Shape& down) {
  return {.label = std::move(label),
          .inputs = {make.uniform(x), make.uniform(gate), make.uniform(gate), make.uniform(down)},
          .differentiable = {true, true, true, true},
          .apply = [](Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {swiglu_feed_forward(tape, in[kX], in[kGate], in[kUp], in[kDown])};
          }};
}

std::vector<OpSample> feed_forward_samples(SampleFactory& make) {
  return {feed_forward_sample("a few tokens", make, {4, 3}, {6, 3}, {3, 6}),
          feed_forward_sample("no tokens", make, {0, 3}, {6, 3}, {3, 6})};
}

std::vector<OpSample> feed_forward_misuses(SampleFactory& make) {
  return {feed_forward_sample("widths differ", make, {4, 5}, {6, 3}, {3, 6}),
          feed_forward_sample("down is not the transpose", make, {4, 3}, {6, 3}, {6, 3}),
          feed_forward_sample("matrices of experts", make, {4, 3}, {1, 6, 3}, {1, 3, 6})};
}

/// The matrices are [E, F, D] and [E, D, F], or those of one expert without E.
void check(Tape& tape, std::string_view op, const Tensor& x, const ExpertWeightTensors& experts) {
  check_weight(tape, op, {"x", x}, {"gate", experts.gate});
  check_weight(tape, op, {"x", x}, {"up", experts.up});
  check_weight(tape, op, {"x", x}, {"down", experts.down});
  SLUICE_CHECK(ShapeError, x.dim(1) == experts.gate.dim(-1),
               "{}: x is {} but gate is {}; last dimensions {} and {} differ", op, x.shape(),
               experts.gate.shape(), x.dim(1), experts.gate.dim(-1));
  const int64_t F = experts.gate.dim(-2);
  const int64_t D = experts.gate.dim(-1);
  check_shape(op, "up", experts.up, experts.gate.shape());
  check_shape(op, "down", experts.down,
              experts.gate.rank() == 2 ? Shape{D, F} : Shape{experts.gate.dim(0), D, F});
}

kernels::ExpertsShape shape_of(const Tensor& gate, const Tensor& offsets,
                               const Tensor& token_of_row) {
  const bool gathers = token_of_row.defined();
  return {.E = gate.rank() == 2 ? 1 : gate.dim(0),
          .D = gate.dim(-1),
          .F = gate.dim(-2),
          .offsets = offsets.has_memory() ? offsets.data<int32_t>() : nullptr,
          .token_of_row =
              gathers && token_of_row.has_memory() ? token_of_row.data<int32_t>() : nullptr};
}

/// `products` of [rows, D] by [D, F] and what else moves.
KernelCost cost_of(int products, int64_t rows, const Tensor& gate,
                   std::initializer_list<Tensor> moved) {
  KernelCost cost = moving(moved);
  cost.flops = 2.0 * products * static_cast<double>(rows) * static_cast<double>(gate.dim(-2)) *
               static_cast<double>(gate.dim(-1));
  return cost;
}

/// Where the factors of the matrices' gradients go; nowhere when they are not wanted.
template <class T>
kernels::ExpertsRows<T> row_gradients(Tensor* rows) {
  if (!rows[0].defined()) return {};
  return {rows[0].data<T>(), rows[1].data<T>(), rows[2].data<T>()};
}

void backward(Backward& b, int64_t rows) {
  const Tensor grad_y = b.grad(0);
  const Tensor& x = b.saved(kX);
  const Tensor& gate = b.saved(kGate);
  const Tensor& token_of_row = b.saved(kTokenOfRow);
  const bool routed = b.saved(kRowOfSlot).defined();
  const bool wants_weights = routed && b.needs(kWeights);
  const bool wants_matrices = b.needs(kGate) || b.needs(kUp) || b.needs(kDown);
  const kernels::ExpertsShape shape = shape_of(gate, b.saved(kOffsets), token_of_row);
  const DType dtype = grad_y.dtype();

  // Rows of dx are the gradient itself where every token has one row.
  GradTarget grad_x = wanted_target(b, kX);
  GradTarget grad_rows = grad_x;
  if (routed && b.needs(kX)) grad_rows = {b.empty({rows, shape.D}, dtype), true};
  GradTarget grad_weights;
  if (wants_weights) grad_weights = {b.target_zeroed(kWeights), false};
  Tensor factors[3];
  if (wants_matrices) {
    const bool in_place = kernels::swiglu_experts_in_place(shape.F);
    // Nobody else reads the hidden tensors, and nobody will again.
    factors[0] = in_place ? b.saved(kHiddenGate) : b.empty({rows, shape.F}, dtype);
    factors[1] = in_place ? b.saved(kHiddenUp) : b.empty({rows, shape.F}, dtype);
    factors[2] = b.empty({rows, shape.F}, dtype);
  }
  b.run(cost_of(b.needs(kX) ? 3 : 1, rows, gate,
                {grad_y, gate, b.saved(kUp), b.saved(kDown), b.saved(kHiddenGate),
                 b.saved(kHiddenUp), grad_rows.tensor, factors[0], factors[1], factors[2]}),
        [&] {
          dispatch_float(dtype, [&]<class T>() {
            kernels::swiglu_experts_backward<T>(
                shape, {gate.data<T>(), b.saved(kUp).data<T>(), b.saved(kDown).data<T>()},
                {.grad_y = grad_y.data<T>(),
                 .weight = routed ? b.saved(kWeights).data<T>() : nullptr,
                 .slot_of_row = routed ? b.saved(kSlotOfRow).data<int32_t>() : nullptr,
                 .hidden = {b.saved(kHiddenGate).data<T>(), b.saved(kHiddenUp).data<T>()},
                 .grad_rows = gradient<T>(grad_rows),
                 .grad_weight = gradient<T>(grad_weights)},
                row_gradients<T>(factors));
          });
        });
  if (routed && b.needs(kX)) {
    const PhaseScope phase(b.tape(), Phase::routing);
    const Tensor& row_of_slot = b.saved(kRowOfSlot);
    b.run(moving({row_of_slot, grad_rows.tensor, grad_x.tensor}), [&] {
      dispatch_float(dtype, [&]<class T>() {
        kernels::combine_rows<T>(x.dim(0), shape.D,
                                 {.k = row_of_slot.dim(1),
                                  .row_of_slot = row_of_slot.data<int32_t>(),
                                  .weight = nullptr,
                                  .rows = grad_rows.tensor.data<T>()},
                                 gradient<T>(grad_x));
      });
    });
  }
  grad_rows.tensor = {};
  // The gradient of a matrix [E, O, I] from its rows' output gradients and inputs.
  const auto put_matrix = [&](int input, int64_t I, int64_t O, const Tensor& grad_out,
                              bool out_by_token, const Tensor& in, bool in_by_token) {
    if (!b.needs(input)) return;
    GradTarget target = b.target(input);
    const kernels::Groups groups{shape.E, shape.offsets, I, O};
    b.run(cost_of(1, rows, gate, {grad_out, in, target.tensor}), [&] {
      dispatch_float(dtype, [&]<class T>() {
        kernels::grouped_gemm_grad_weight<T>(
            groups, {grad_out.data<T>(), out_by_token ? shape.token_of_row : nullptr},
            {in.data<T>(), in_by_token ? shape.token_of_row : nullptr}, gradient<T>(target));
      });
    });
  };
  put_matrix(kGate, shape.D, shape.F, factors[0], false, x, true);
  put_matrix(kUp, shape.D, shape.F, factors[1], false, x, true);
  put_matrix(kDown, shape.F, shape.D, grad_y, true, factors[2], false);
}

Tensor apply(Tape& tape, const OpInfo& op, const Tensor& x, const ExpertWeightTensors& experts,
             const Tensor& weights, const DispatchPlan& plan) {
  const bool routed = weights.defined();
  const int64_t rows = routed ? plan.token_of_row.dim(0) : x.dim(0);
  check(tape, op.name, x, experts);
  const kernels::ExpertsShape shape = shape_of(experts.gate, plan.offsets, plan.token_of_row);
  const bool keeps = tape.requires_grad(x) || tape.requires_grad(experts.gate) ||
                     tape.requires_grad(experts.up) || tape.requires_grad(experts.down) ||
                     (routed && tape.requires_grad(weights));
  Tensor hidden[2];
  if (keeps) {
    for (Tensor& tensor : hidden) tensor = tape.empty({rows, shape.F}, x.dtype());
  }
  Tensor y = tape.empty(x.shape(), x.dtype());
  Tensor y_rows = routed ? tape.empty({rows, shape.D}, x.dtype()) : y;
  tape.run(op,
           cost_of(3, rows, experts.gate,
                   {x, experts.gate, experts.up, experts.down, hidden[0], hidden[1], y_rows}),
           [&] {
             dispatch_float(x.dtype(), [&]<class T>() {
               kernels::swiglu_experts<T>(
                   shape, {stored<T>(experts.gate), stored<T>(experts.up), stored<T>(experts.down)},
                   x.data<T>(),
                   keeps ? kernels::ExpertsHidden<T>{hidden[0].data<T>(), hidden[1].data<T>()}
                         : kernels::ExpertsHidden<T>{},
                   y_rows.data<T>());
             });
           });
  if (routed) {
    const PhaseScope phase(tape, Phase::routing);
    tape.run(combine_info(), moving({y_rows, weights, plan.row_of_slot, y}), [&] {
      dispatch_float(x.dtype(), [&]<class T>() {
        kernels::combine_rows<T>(x.dim(0), shape.D,
                                 {.k = weights.dim(1),
                                  .row_of_slot = plan.row_of_slot.data<int32_t>(),
                                  .weight = weights.data<T>(),
                                  .rows = y_rows.data<T>()},
                                 {.data = y.data<T>(), .accumulate = false});
      });
    });
  }
  const std::array saved{x,
                         experts.gate,
                         experts.up,
                         experts.down,
                         weights,
                         plan.offsets,
                         plan.token_of_row,
                         plan.slot_of_row,
                         plan.row_of_slot,
                         hidden[0],
                         hidden[1]};
  std::array<Tensor, 5> inputs{x, experts.gate, experts.up, experts.down, weights};
  const size_t count = routed ? inputs.size() : inputs.size() - 1;
  Tensor* const outputs[] = {&y};
  tape.record(op, std::span<const Tensor>(inputs.data(), count), outputs, saved,
              [rows](Backward& b) { backward(b, rows); });
  return y;
}

}  // namespace

const OpInfo& swiglu_experts_info() {
  static constexpr OpInfo kInfo{
      kOp, "y[n] = sum_j weights[n, j] down[e] (silu(gate[e] x[n]) * (up[e] x[n]))", samples,
      misuses};
  return kInfo;
}

Tensor swiglu_experts(Tape& tape, const Tensor& x, const ExpertWeightTensors& experts,
                      const Tensor& weights, const DispatchPlan& plan) {
  check_rank(kOp, "x", x, 2, "[N, D]");
  check_same_dtype(kOp, {"x", x}, {"weights", weights});
  check_shape(kOp, "weights", weights, plan.row_of_slot.shape());
  SLUICE_CHECK(ShapeError, x.dim(0) == plan.row_of_slot.dim(0),
               "{}: x is {} but the plan is for {} tokens", kOp, x.shape(),
               plan.row_of_slot.dim(0));
  check_rank(kOp, "gate", experts.gate, 3, "[E, F, D]");
  check_expert_offsets(kOp, plan.offsets, experts.gate.dim(0), plan.token_of_row.dim(0));
  return apply(tape, swiglu_experts_info(), x, experts, weights, plan);
}

Tensor swiglu_experts(Tape& tape, const Tensor& x, const ExpertWeightTensors& experts,
                      const Tensor& offsets) {
  check_rank(kOp, "gate", experts.gate, 3, "[E, F, D]");
  check_rank(kOp, "x", x, 2, "[N, D]");
  check_expert_offsets(kOp, offsets, experts.gate.dim(0), x.dim(0));
  return apply(tape, swiglu_experts_info(), x, experts, {}, {.offsets = offsets});
}

const OpInfo& swiglu_feed_forward_info() {
  static constexpr OpInfo kInfo{kFeedForward, "y[n] = down (silu(gate x[n]) * (up x[n]))",
                                feed_forward_samples, feed_forward_misuses};
  return kInfo;
}

Tensor swiglu_feed_forward(Tape& tape, const Tensor& x, const Tensor& gate, const Tensor& up,
                           const Tensor& down) {
  check_rank(kFeedForward, "x", x, 2, "[N, D]");
  check_rank(kFeedForward, "gate", gate, 2, "[F, D]");
  const std::array<int32_t, 2> all{0, static_cast<int32_t>(x.dim(0))};
  return apply(tape, swiglu_feed_forward_info(), x, {gate, up, down}, {},
               {.offsets = Tensor::of<int32_t>(tape.pool(), {2}, std::span<const int32_t>(all))});
}

}  // namespace sluice
