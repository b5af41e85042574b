#include "autograd/ops/ssd_scan.h"

#include <algorithm>
#include <array>

#include "autograd/kernels/ssd_scan.h"
#include "autograd/ops/common.h"

namespace sluice {
namespace {

constexpr std::string_view kOp = "ssd_scan";
// Up to so many tokens the recurrence is quicker than a chunk.
constexpr int64_t kFewTokens = 8;

struct Sizes {
  int64_t tokens;
  int64_t H;
  int64_t P;
};

OpSample sample(std::string label, std::vector<Tensor> inputs, std::vector<int64_t> documents,
                const SsdOptions& options) {
  return {.label = std::move(label),
          .inputs = std::move(inputs),
          .differentiable = std::vector<bool>(5, true),
          .apply = [documents = std::move(documents), options](
                       Tape& tape, std::span<const Tensor> in) -> std::vector<Tensor> {
            return {ssd_scan(tape, {in[0], in[1], in[2], in[3], in[4]}, documents, options)};
          }};
}

OpSample sample(std::string label, SampleFactory& make, const Sizes& sizes,
                std::vector<int64_t> documents, const SsdOptions& options) {
  const auto& [tokens, H, P] = sizes;
  return sample(std::move(label),
                {make.uniform({tokens, H * P + 2 * options.num_groups * options.state_size}),
                 make.uniform({tokens, H}, -2.0, 1.0), make.uniform({H}), make.uniform({H}),
                 make.uniform({H})},
                std::move(documents), options);
}

std::vector<OpSample> samples(SampleFactory& make) {
  const auto options = [](int64_t groups, int64_t state, int64_t chunk) {
    return SsdOptions{.num_groups = groups, .state_size = state, .chunk_size = chunk};
  };
  SsdOptions limited = options(1, 3, 8);
  limited.dt_min = 0.2;
  limited.dt_max = 0.9;
  return {sample("one chunk", make, {7, 2, 3}, {0, 7}, options(1, 4, 8)),
          sample("several chunks", make, {21, 2, 3}, {0, 21}, options(1, 4, 8)),
          sample("the recurrence", make, {5, 1, 2}, {0, 5}, options(1, 3, 1)),
          sample("groups", make, {19, 4, 2}, {0, 19}, options(2, 3, 8)),
          sample("packed documents", make, {40, 2, 2}, {0, 1, 8, 8, 17, 40}, options(1, 3, 8)),
          sample("several panels", make, {90, 1, 2}, {0, 20, 90}, options(1, 2, 40)),
          sample("limits of the step", make, {20, 3, 2}, {0, 20}, limited),
          sample("no token", make, {0, 2, 3}, {0}, options(1, 4, 8))};
}

std::vector<OpSample> misuses(SampleFactory& make) {
  const SsdOptions options{.num_groups = 1, .state_size = 4, .chunk_size = 8};
  SsdOptions groups = options;
  groups.num_groups = 2;
  SsdOptions no_chunk = options;
  no_chunk.chunk_size = 0;
  const auto tensors = [&](int64_t width, int64_t heads, int64_t A, int64_t D) {
    return std::vector<Tensor>{make.uniform({7, width}), make.uniform({7, heads}),
                               make.uniform({heads}), make.uniform({A}), make.uniform({D})};
  };
  return {sample("no room for x", tensors(8, 2, 2, 2), {0, 7}, options),
          sample("heads do not divide the width", tensors(13, 2, 2, 2), {0, 7}, options),
          sample("groups do not divide the heads", tensors(25, 3, 3, 3), {0, 7}, groups),
          sample("A_log of another length", tensors(14, 2, 3, 2), {0, 7}, options),
          sample("D of another length", tensors(14, 2, 2, 1), {0, 7}, options),
          sample("documents end early", tensors(14, 2, 2, 2), {0, 6}, options),
          sample("chunks of no token", tensors(14, 2, 2, 2), {0, 7}, no_chunk)};
}

kernels::SsdShape check(std::string_view op, const SsdInputs& in, const SsdOptions& options) {
  check_rank(op, "xbc", in.xbc, 2, "[T, H P + 2 G N]");
  check_rank(op, "dt", in.dt, 2, "[T, H]");
  check_same_dtype(op, {"xbc", in.xbc}, {"dt", in.dt});
  const int64_t H = in.dt.dim(1);
  SLUICE_CHECK(ShapeError, in.dt.dim(0) == in.xbc.dim(0),
               "{}: xbc is {} but dt is {}; tokens differ", op, in.xbc.shape(), in.dt.shape());
  for (const Operand& each :
       {Operand{"dt_bias", in.dt_bias}, Operand{"A_log", in.A_log}, Operand{"D", in.D}}) {
    check_same_dtype(op, {"xbc", in.xbc}, each);
    check_shape(op, each.name, each.tensor, {H});
  }
  const int64_t G = options.num_groups;
  const int64_t N = options.state_size;
  SLUICE_CHECK(ShapeError, H > 0 && G > 0 && H % G == 0,
               "{}: {} heads and {} groups, expected a multiple", op, H, G);
  SLUICE_CHECK(ShapeError, N > 0 && options.chunk_size > 0,
               "{}: state size {} and chunks of {} tokens, expected at least 1", op, N,
               options.chunk_size);
  const int64_t width = in.xbc.dim(1) - 2 * G * N;
  SLUICE_CHECK(ShapeError, width > 0 && width % H == 0,
               "{}: xbc is {}, expected x of {} heads beside B and C of {} groups of {}", op,
               in.xbc.shape(), H, G, N);
  return {H, width / H, G, N, options.chunk_size, options.dt_min, options.dt_max};
}

template <class T>
kernels::SsdInputs<T> inputs(const kernels::SsdShape& shape, const Tensor& xbc, const Tensor& A_log,
                             const Tensor& D) {
  const int64_t width = shape.H * shape.P;
  return {xbc.data<T>(), xbc.data<T>() + width, xbc.data<T>() + width + shape.G * shape.N,
          xbc.dim(1),    A_log.data<T>(),       D.data<T>()};
}

/// Products over the pairs of a chunk, and those that read or make a state; `passes` is 1 for the
/// forward, 2 for the backward, whose products of B and C, computed again, are no useful work.
KernelCost cost_of(const kernels::SsdShape& shape, std::span<const int64_t> documents, int passes,
                   std::initializer_list<Tensor> moved) {
  double pairs = 0.0;
  double states = 0.0;
  for (size_t d = 0; d + 1 < documents.size(); ++d) {
    const int64_t length = documents[d + 1] - documents[d];
    for (int64_t t = 0; t < length; t += shape.chunk) {
      const auto size = static_cast<double>(std::min(shape.chunk, length - t));
      pairs += size * (size + 1.0) / 2.0;
      states += size * static_cast<double>((t > 0) + (t + shape.chunk < length));
    }
  }
  KernelCost cost = moving(moved);
  cost.flops = 2.0 * passes *
               (pairs * static_cast<double>(shape.G * shape.N + shape.H * shape.P) +
                states * static_cast<double>(shape.H * shape.P * shape.N));
  return cost;
}

}  // namespace

const OpInfo& ssd_scan_info() {
  static constexpr OpInfo kInfo{
      kOp,
      "S_t = e^(-d_t e^A_log) S_(t-1) + d_t x_t (x) B_t, y_t = S_t C_t + D x_t, d = softplus(dt + "
      "dt_bias)",
      samples, misuses};
  return kInfo;
}

Tensor ssd_scan(Tape& tape, const SsdInputs& in, std::span<const int64_t> documents,
                const SsdOptions& options) {
  const auto shape = check(kOp, in, options);
  const int64_t tokens = in.xbc.dim(0);
  const int64_t end = documents.empty() ? 0 : documents.back();
  SLUICE_CHECK(ShapeError, end == tokens, "{}: documents end at token {}, xbc has {} tokens", kOp,
               end, tokens);
  const DType dtype = in.xbc.dtype();
  const Shape state_shape{kernels::ssd_states(shape, documents), shape.H, shape.P, shape.N};
  Tensor y = tape.empty({tokens, shape.H * shape.P}, dtype);
  Tensor delta = tape.empty({tokens, shape.H}, dtype);
  Tensor states = tape.empty(state_shape, dtype);
  tape.run(ssd_scan_info(), cost_of(shape, documents, 1, {in.xbc, in.dt, y, delta, states}), [&] {
    dispatch_float(dtype, [&]<class T>() {
      kernels::ssd_scan<T>(shape, documents,
                           {.in = inputs<T>(shape, in.xbc, in.A_log, in.D),
                            .dt = in.dt.data<T>(),
                            .dt_bias = in.dt_bias.data<T>(),
                            .y = y.data<T>(),
                            .delta = delta.data<T>(),
                            .states = states.data<T>()});
    });
  });
  tape.record(ssd_scan_info(), {in.xbc, in.dt, in.dt_bias, in.A_log, in.D}, {&y},
              {in.xbc, in.A_log, in.D, delta, states}, [shape, documents](Backward& b) {
                const Tensor grad_y = b.grad(0);
                const Tensor& xbc = b.saved(0);
                const Tensor& saved_states = b.saved(4);
                GradTarget grad_xbc = wanted_target(b, 0);
                GradTarget grad_dt = wanted_target(b, 1);
                GradTarget grad_dt_bias = wanted_target(b, 2);
                GradTarget grad_A_log = wanted_target(b, 3);
                GradTarget grad_D = wanted_target(b, 4);
                Tensor workspace = b.empty(saved_states.shape(), saved_states.dtype());
                const KernelCost cost = cost_of(
                    shape, documents, 2, {xbc, grad_y, grad_xbc.tensor, saved_states, workspace});
                b.run(cost, [&] {
                  dispatch_float(grad_y.dtype(), [&]<class T>() {
                    const auto grad = gradient<T>(grad_xbc);
                    const int64_t width = shape.H * shape.P;
                    const bool wanted = static_cast<bool>(grad);
                    kernels::ssd_scan_backward<T>(
                        shape, documents,
                        {.in = inputs<T>(shape, xbc, b.saved(1), b.saved(2)),
                         .delta = b.saved(3).data<T>(),
                         .states = saved_states.data<T>(),
                         .grad_states = workspace.data<T>(),
                         .grad_y = grad_y.data<T>(),
                         .grad_x = grad,
                         .grad_B = wanted ? grad.from(width) : grad,
                         .grad_C = wanted ? grad.from(width + shape.G * shape.N) : grad,
                         .grad_dt = gradient<T>(grad_dt),
                         .grad_dt_bias = gradient<T>(grad_dt_bias),
                         .grad_A_log = gradient<T>(grad_A_log),
                         .grad_D = gradient<T>(grad_D)});
                  });
                });
              });
  return y;
}

Tensor ssd_scan_step(Tape& tape, const SsdInputs& in, const SsdOptions& options, Tensor& state) {
  constexpr std::string_view kStep = "ssd_scan_step";
  const auto shape = check(kStep, in, options);
  const int64_t tokens = in.xbc.dim(0);
  const DType dtype = in.xbc.dtype();
  check_same_dtype(kStep, {"xbc", in.xbc}, {"state", state});
  check_shape(kStep, "state", state, {shape.H, shape.P, shape.N});
  const NoGrad no_grad(tape);
  const std::array<int64_t, 2> documents{0, tokens};
  Tensor y = tape.empty({tokens, shape.H * shape.P}, dtype);
  const KernelCost cost = cost_of(shape, documents, 1, {in.xbc, in.dt, y, state, state});
  if (tokens <= kFewTokens) {
    tape.run(ssd_scan_info(), cost, [&] {
      dispatch_float(dtype, [&]<class T>() {
        kernels::ssd_step<T>(shape, tokens,
                             {.in = inputs<T>(shape, in.xbc, in.A_log, in.D),
                              .dt = in.dt.data<T>(),
                              .dt_bias = in.dt_bias.data<T>(),
                              .y = y.data<T>()},
                             state.data<T>());
      });
    });
    return y;
  }
  Tensor delta = tape.empty({tokens, shape.H}, dtype);
  Tensor states =
      tape.empty({kernels::ssd_states(shape, documents), shape.H, shape.P, shape.N}, dtype);
  Tensor last = tape.empty(state.shape(), dtype);
  tape.run(ssd_scan_info(), cost, [&] {
    dispatch_float(dtype, [&]<class T>() {
      kernels::ssd_scan<T>(shape, documents,
                           {.in = inputs<T>(shape, in.xbc, in.A_log, in.D),
                            .dt = in.dt.data<T>(),
                            .dt_bias = in.dt_bias.data<T>(),
                            .y = y.data<T>(),
                            .delta = delta.data<T>(),
                            .states = states.data<T>(),
                            .initial = state.data<T>(),
                            .last = last.data<T>()});
    });
    std::ranges::copy(last.raw(), state.raw().begin());
  });
  return y;
}

}  // namespace sluice
